"""A prior from scores: its sums, its costs, its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from worker.core.coupled import CoupledArms
from worker.core.prior import Prior
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.table import build, run

RNG = np.random.default_rng(9)
N = 300
KIND = RNG.integers(0, 2, N)
EMBEDDINGS = RNG.normal(size=(N, 16)) * 0.3 + np.where(KIND[:, None] == 1, 1.0, -1.0) * np.eye(16)[0]
PROMPTS = [f"{'prove' if kind else 'translate'} number {index}" for index, kind in enumerate(KIND)]
# The first model is good at one kind, the second at the other; the third is dear and good at both.
REWARDS = np.column_stack([KIND * 0.8 + 0.1, (1 - KIND) * 0.8 + 0.1, np.full(N, 0.95)])
COSTS = np.column_stack([np.full(N, 1e-4), np.full(N, 2e-4), np.exp(RNG.normal(size=N)) * 1e-2])
MODELS = ("prover", "translator", "dear")


def encode(texts: Sequence[str]) -> FloatArray:
    index = {text: row for row, text in enumerate(PROMPTS)}
    return EMBEDDINGS[[index[text] for text in texts]]


def built() -> Prior:
    return build(PROMPTS, REWARDS, COSTS, MODELS, EMBEDDINGS, encoder_id="e")


def test_prior_knows_which_model_is_good_at_what() -> None:
    """Scores read from the prior's sums follow the kind of prompt."""
    prior = built()
    model = CoupledArms(3, prior.projection.dimension, prior.hyper)
    model.refresh([prior.statistics[name].reward for name in MODELS])
    contexts = prior.projection.contexts(EMBEDDINGS, PROMPTS, [None] * N)
    means, _ = model.score_many(contexts)
    assert (means[:, 0] > means[:, 1]).mean() == pytest.approx(KIND.mean(), abs=0.02)
    np.testing.assert_allclose(means.mean(axis=0), REWARDS.mean(axis=0), atol=0.02)


def test_sums_hold_every_row_once() -> None:
    """Each arm has one reward a prompt, with its exact total."""
    prior = built()
    for name, rewards in zip(MODELS, REWARDS.T, strict=True):
        assert prior.statistics[name].reward.n == N
        assert prior.statistics[name].reward.total == pytest.approx(rewards.sum())
    assert (prior.kind, prior.models, prior.contexts.shape[0]) == ("table", MODELS, 300)


def test_costs_are_means_and_what_logs_fall_short_of() -> None:
    """The calibration of a constant cost is 1, of a log-normal one about e^½."""
    prior = built()
    assert prior.mean_costs["translator"] == pytest.approx(2e-4)
    assert prior.calibration["prover"] == pytest.approx(1.0, abs=0.01)
    assert prior.calibration["dear"] == pytest.approx(np.exp(0.5), rel=0.2)


def test_sample_is_at_most_400_contexts() -> None:
    """A long table leaves a sample to plan with, not itself."""
    prior = build(PROMPTS * 2, np.tile(REWARDS, (2, 1)), np.tile(COSTS, (2, 1)), MODELS, np.tile(EMBEDDINGS, (2, 1)),
                  encoder_id="e")  # fmt: skip
    assert prior.contexts.shape == (400, prior.projection.dimension)


def test_run_writes_an_artefact_and_reports(tmp_path: Path) -> None:
    """The command's work: a file that loads, and a report that names the models."""
    frame = pd.DataFrame({"prompt": PROMPTS})
    for k, name in enumerate(MODELS):
        frame[f"reward:{name}"], frame[f"cost:{name}"] = REWARDS[:, k], COSTS[:, k]
    frame.to_parquet(tmp_path / "t.parquet")
    lines: list[str] = []
    report = run(tmp_path / "t.parquet", tmp_path / "p.npz", encode=encode, encoder_id="e", progress=lines.append)
    found = Prior.load(tmp_path / "p.npz")
    assert report["fingerprint"] == found.fingerprint
    assert [row["model"] for row in report["models"]] == list(MODELS) == list(found.models)
    assert report["models"][2]["mean_reward"] == pytest.approx(0.95)
    assert lines


def test_run_leaves_nothing_behind_when_the_table_is_bad(tmp_path: Path) -> None:
    """A refused table writes no file."""
    pd.DataFrame({"prompt": ["a"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UsageError):
        run(tmp_path / "t.parquet", tmp_path / "p.npz", encode=encode, encoder_id="e")
    assert not (tmp_path / "p.npz").exists()


def test_task_indicators_have_variances_of_their_own() -> None:
    """Told the kind of prompt, the prior believes more in the label than in the rest; untold there is no such block."""
    told = build(PROMPTS, REWARDS, COSTS, MODELS, EMBEDDINGS, encoder_id="e", tasks=[str(kind) for kind in KIND])
    assert (told.hyper.task_first, told.hyper.tasks) == told.projection.task_span == (16, 2)
    assert told.hyper.task_d2 > 3 * told.hyper.tau_d2
    assert built().hyper.tasks == 0
