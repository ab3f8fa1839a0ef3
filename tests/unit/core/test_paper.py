"""Preset `paper`: beliefs and costs as published."""

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.learn import Lesson, learn
from worker.core.paper import PaperBeliefs, as_published
from worker.core.prior import PreferencePrior, Prior, default_prior
from worker.core.projection import Projection
from worker.core.statistics import ArmStatistics

ARMS = (Arm("a", 1.0, 10.0, 0.001, expected_output_tokens=100), Arm("b", 2.0, 20.0))
X = np.array([0.6, 0.8])


def preferring() -> Prior:
    """θ_a points along the context, θ_b across it; a is known well, b badly."""
    projection = Projection("test", np.zeros(2), np.eye(2), constant=False)
    preference = PreferencePrior(np.array([[0.6, 0.8], [-0.8, 0.6]]), np.array([4.0, 1.0]))
    return Prior("triplet", projection, X[None, :], ("a", "b"), preference=preference)


def test_starts_from_the_preferences() -> None:
    """Before feedback the score is the cosine with θ⁰ and the deviation 1/√λ."""
    mean, deviation = PaperBeliefs(preferring(), ARMS, table=False).rewards.score(X)
    np.testing.assert_allclose(mean, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(deviation, [0.5, 1.0])


def test_an_arm_without_preferences_starts_at_nothing() -> None:
    """θ⁰ = 0 and λ = 1."""
    beliefs = PaperBeliefs(preferring(), (*ARMS, Arm("new")), table=False)
    mean, deviation = beliefs.rewards.score(X)
    assert (mean[2], deviation[2]) == (0.0, 1.0)
    assert beliefs.known == [True, True, False]


def test_tokens_are_plain_means() -> None:
    """Cost is input tokens and the mean of output tokens at list price, the same in every context."""
    beliefs = PaperBeliefs(preferring(), ARMS, table=False)
    assert beliefs.costs.estimate(X, 50).expected[0] == pytest.approx(ARMS[0].price_usd(50, 100))
    sums = ArmStatistics.zeros(2)
    for tokens in (10, 20, 90):
        learn(sums, Lesson(X, output_tokens=tokens))
    beliefs.refresh({"a": sums})
    estimate = beliefs.costs.estimate(-X, 50)
    assert estimate.expected[0] == pytest.approx(ARMS[0].price_usd(50, 40))
    assert estimate.expected[1] == pytest.approx(ARMS[1].price_usd(50, 256))
    np.testing.assert_array_equal(estimate.quantile, estimate.expected)
    many = beliefs.costs.estimate_many(np.stack([X, -X]), np.array([50.0, 50.0]))
    np.testing.assert_allclose(many.expected, np.tile(estimate.expected, (2, 1)))


def test_any_prior_loses_what_the_paper_does_not_have() -> None:
    """No intercept, no kinds of query; the sample keeps its unit length."""
    published = as_published(default_prior())
    assert published.projection.dimension == len(default_prior().projection.components)
    assert published.fingerprint != default_prior().fingerprint
    np.testing.assert_allclose(np.linalg.norm(published.contexts, axis=1), 1.0, atol=1e-5)
    assert as_published(preferring()).preference is not None
