"""Battles as observations of reward differences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.pretrain.voters import MODELS, PROMPTS, drawn
from worker.core.coupled import CoupledArms, Hyper
from worker.core.prior import Prior, default_prior
from worker.core.verdict import FloatArray
from worker.pretrain.observations import BattlePosterior, build, build_foreign, strengths


def scored(prior: Prior, contexts: FloatArray) -> tuple[FloatArray, FloatArray]:
    model = CoupledArms(len(prior.models), prior.projection.dimension, prior.hyper)
    model.refresh([prior.statistics[name].reward for name in prior.models])
    return model.score_many(contexts)


def small(seed: int) -> tuple[BattlePosterior, FloatArray, FloatArray, FloatArray]:
    """A posterior, and the design, outcomes and contexts it was made of."""
    battles, _, _ = drawn(seed, 60)
    rng = np.random.default_rng(seed)
    contexts = np.column_stack([rng.normal(size=(PROMPTS, 3)), np.ones(PROMPTS)])
    sides = np.eye(3)[battles.a] - np.eye(3)[battles.b]
    design = (sides[:, :, None] * contexts[battles.prompt][:, None, :]).reshape(len(battles), -1)
    return BattlePosterior(battles, contexts), design, battles.outcome, contexts


HYPER = Hyper(0.03, 0.08, 0.3, 0.8, 1.1, 0.5)
COVARIANCE = np.kron(np.eye(3), np.diag(HYPER.own(4))) + np.kron(np.ones((3, 3)), np.diag(HYPER.shared(4)))
START = np.tile(HYPER.mean(4), 3)


def test_mean_is_that_of_the_joint_gaussian() -> None:
    """θ⁰ is the dense posterior mean of all arms given y = (θ_a − θ_b)ᵀψ + noise of two rewards."""
    posterior, design, y, _ = small(1)
    noise = 2 * HYPER.sigma2 * np.eye(len(y))
    gain = COVARIANCE @ design.T @ np.linalg.inv(design @ COVARIANCE @ design.T + noise)
    expected = START + gain @ (y - design @ START)
    np.testing.assert_allclose(posterior.mean(HYPER).ravel(), expected, rtol=1e-9, atol=1e-10)


def test_evidence_is_the_density_of_the_outcomes() -> None:
    """The log evidence equals the log density of the joint Gaussian of all outcomes."""
    posterior, design, y, _ = small(2)
    covariance = design @ COVARIANCE @ design.T + 2 * HYPER.sigma2 * np.eye(len(y))
    residual = y - design @ START
    logs = np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi)
    expected = -0.5 * (float(residual @ np.linalg.solve(covariance, residual)) + logs)
    assert posterior.evidence(HYPER) == pytest.approx(expected, rel=1e-9)


def test_sums_reproduce_the_mean_in_the_coupled_solve() -> None:
    """What is stored per arm gives exactly the joint mean again, and less doubt than no battles."""
    posterior, _, _, contexts = small(3)
    model, blank = CoupledArms(3, 4, HYPER), CoupledArms(3, 4, HYPER)
    model.refresh([arm.reward for arm in posterior.sums(HYPER)])
    np.testing.assert_allclose(model.coefficients, posterior.mean(HYPER), rtol=1e-8, atol=1e-9)
    assert (model.score(contexts[0])[1] < blank.score(contexts[0])[1]).all()


def test_prior_knows_who_is_good_at_what() -> None:
    """From votes alone the coder leads on code, the poet on rhymes, the weak one nowhere."""
    battles, embeddings, quality = drawn(4)
    prior = build(battles, embeddings, encoder_id="e")
    contexts = prior.projection.contexts(embeddings, battles.prompts, battles.tasks)
    best = scored(prior, contexts)[0].argmax(axis=1)
    assert (best == quality.argmax(axis=1)).mean() > 0.95
    assert (prior.kind, prior.models) == ("battles", MODELS)
    assert all(prior.statistics[name].reward.n > 0 for name in MODELS)
    assert prior.hyper != Hyper()


def test_strengths_follow_the_wins() -> None:
    """The averages rank the models, sum to 0, and pull a single vote half-way."""
    battles, _, _ = drawn(5)
    found = strengths(battles)
    assert found[2] < found[:2].min()
    assert found.sum() == pytest.approx(0)


def test_foreign_votes_move_only_the_averages() -> None:
    """Votes from elsewhere change the level of each model, by half of its strength, and nothing by context."""
    battles, _, _ = drawn(6)
    prior = build_foreign(battles)
    means, deviations = scored(prior, default_prior().contexts[:50])
    assert prior.fingerprint == default_prior().fingerprint
    np.testing.assert_allclose(means.std(axis=0), 0, atol=1e-12)
    differences = strengths(battles) / 2
    # Most of the difference survives the prior's own pull: variance .03 against 1.
    np.testing.assert_allclose(means[0] - means[0].mean(), differences, atol=0.05 * np.abs(differences).max())
    assert deviations.min() > 0.1
