"""Battles made of a table: two models on one prompt, the higher score wins, equal scores tie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from studies.stage import Stage
from worker.core.prior import Prior
from worker.core.verdict import FloatArray
from worker.evaluate.experiment import Run
from worker.pretrain import preferences as command
from worker.pretrain.battles import Battles

A_PROMPT = 10
CORRUPTED = (0.1, 0.3, 0.4, 0.5)
_WINNER = {1.0: "model_a", -1.0: "model_b", 0.0: "tie"}


def shared_out(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """The train rows that give battles, and the others, which are left for bandit rounds."""
    rows = stage.generator(5).permutation(stage.split.train)
    count = round(len(rows) * stage.material.battle_share)
    return rows[:count], rows[count:]


def battles_of(stage: Stage, rows: np.ndarray) -> tuple[Battles, FloatArray]:
    """At most ten random pairs of models a row, and the rows' embeddings."""
    table, generator = stage.table, stage.generator(3)
    count = len(table.models)
    pairs = np.array([(a, b) for a in range(count) for b in range(a)])
    each = min(A_PROMPT, len(pairs))
    picked = [generator.choice(len(pairs), each, replace=False) for _ in rows]
    a, b = (np.concatenate([pairs[own, side] for own in picked]) for side in (0, 1))
    prompt = np.repeat(np.arange(len(rows)), each)
    outcome = np.sign(table.rewards[rows[prompt], a] - table.rewards[rows[prompt], b])
    prompts, tasks = [table.prompts[row] for row in rows], [table.tasks[row] for row in rows]
    return Battles(prompts, tasks, table.models, prompt, a, b, outcome), stage.material.embeddings[rows]


def corrupted(battles: Battles, share: float, generator: np.random.Generator) -> Battles:
    """With this share of the outcomes turned round."""
    wrong = generator.random(len(battles)) < share
    return replace(battles, outcome=np.where(wrong, -battles.outcome, battles.outcome))


def preferences(stage: Stage) -> Iterator[Run]:
    """A share of the train rows as battles, then bandit rounds on the others."""
    rows, others = shared_out(stage)
    lessons, none = stage.lessons(others), stage.priced()
    yield stage.learned("no prior", stage.router(none), stage.contexts(none), lessons)
    prior = _pretrained(stage, rows, 0.0)
    contexts = stage.contexts(prior)
    yield stage.frozen("battles alone", stage.router(prior), contexts)
    yield stage.learned("battles", stage.router(prior), contexts, lessons)


def turned(stage: Stage) -> Iterator[Run]:
    """The same with a wrong prior: some of the battles turned round."""
    rows, others = shared_out(stage)
    lessons = stage.lessons(others)
    for share in CORRUPTED:
        prior = _pretrained(stage, rows, share)
        yield stage.learned(f"{share:.0%} turned round", stage.router(prior), stage.contexts(prior), lessons)


def _pretrained(stage: Stage, rows: np.ndarray, wrong: float) -> Prior:
    """What `pilot pretrain preferences` makes of these rows' battles, by way of its files."""
    key = f"battles {stage.seed} {wrong}"
    if key not in stage.fitted:
        battles, embeddings = battles_of(stage, rows)
        battles = corrupted(battles, wrong, stage.generator(8))
        with TemporaryDirectory() as folder:
            votes, artefact = Path(folder) / "votes.parquet", Path(folder) / "prior.npz"
            frame(battles).to_parquet(votes)
            command.run(votes, artefact, encode=_lookup(battles, embeddings), encoder_id=stage.material.encoder_id)
            stage.fitted[key] = Prior.load(artefact)
    return stage.priced(stage.fitted[key])


def frame(battles: Battles) -> pd.DataFrame:
    """The votes as `pilot pretrain preferences` reads them."""
    models = np.array(battles.models)
    return pd.DataFrame(
        {
            "prompt": [battles.prompts[index] for index in battles.prompt],
            "model_a": models[battles.a],
            "model_b": models[battles.b],
            "winner": [_WINNER[outcome] for outcome in battles.outcome.tolist()],
        }
    )


def _lookup(battles: Battles, embeddings: FloatArray) -> Callable[[Sequence[str]], FloatArray]:
    place = {prompt: row for row, prompt in enumerate(battles.prompts)}

    def encode(texts: Sequence[str]) -> FloatArray:
        return embeddings[[place[text] for text in texts]]

    return encode
