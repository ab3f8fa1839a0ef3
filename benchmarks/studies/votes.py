"""Battles made of a table: two models on one prompt, the higher score wins, equal scores tie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from studies.stage import Stage
from worker.core.verdict import FloatArray
from worker.evaluate.experiment import Run
from worker.pretrain import observations
from worker.pretrain.battles import Battles

A_PROMPT = 10
CORRUPTED = (0.1, 0.3, 0.4, 0.5)


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
    """Battles on a half of the train rows as a prior, true and corrupted, then bandit rounds on the other half."""
    half = len(stage.split.train) // 2
    rows = stage.generator(5).permutation(stage.split.train)
    lessons = stage.lessons(rows[half:])
    none = stage.priced()
    yield stage.learned("no prior", stage.router(none), stage.contexts(none), lessons)
    battles, embeddings = battles_of(stage, rows[:half])
    for share in (0.0, *CORRUPTED):
        votes = corrupted(battles, share, stage.generator(8))
        prior = stage.priced(observations.build(votes, embeddings, encoder_id=stage.material.encoder_id))
        contexts = stage.contexts(prior)
        if share == 0:
            yield stage.frozen("battles alone", stage.router(prior), contexts)
        yield stage.learned(f"battles, {share:.0%} turned round", stage.router(prior), contexts, lessons)
