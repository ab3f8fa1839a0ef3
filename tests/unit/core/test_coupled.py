"""Coupled arms against the dense Gaussian posterior that they factorise."""

from __future__ import annotations

import numpy as np
import pytest

from worker.core.coupled import CoupledArms, Hyper
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

K, D = 4, 5
HYPER = Hyper(tau_d2=0.02, tau_s2=0.05, sigma2=0.15, intercept_d2=0.9, intercept_s2=1.3, m=0.7)


def rounds(seed: int, n: int = 60) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Arms, contexts and rewards of n rounds; the last arm is never played."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D)) / 2
    X[:, -1] = 1.0
    return rng.integers(0, K - 1, n), X, rng.random(n)


def sums_of(arms: FloatArray, X: FloatArray, r: FloatArray) -> list[Moments]:
    return [Moments.of(X[arms == k], r[arms == k]) for k in range(K)]


def dense(arms: FloatArray, X: FloatArray, r: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation from the joint posterior of (μ, δ_1 … δ_K), solved as one system."""
    size = (K + 1) * D
    prior = np.diag(np.concatenate([1 / HYPER.shared(D), *[1 / HYPER.own(D)] * K]))
    design = np.zeros((len(r), size))
    for row, (k, context) in enumerate(zip(arms, X, strict=True)):
        design[row, :D] = context
        design[row, (k + 1) * D : (k + 2) * D] = context
    start = np.zeros(size)
    start[:D] = HYPER.mean(D)
    covariance = np.linalg.inv(prior + design.T @ design / HYPER.sigma2)
    theta = covariance @ (prior @ start + design.T @ r / HYPER.sigma2)
    reading = np.zeros((K, size))
    for k in range(K):
        reading[k, :D] = x
        reading[k, (k + 1) * D : (k + 2) * D] = x
    return reading @ theta, np.sqrt(np.einsum("ki,ij,kj->k", reading, covariance, reading))


@pytest.mark.parametrize("seed", range(5))
def test_solve_equals_the_dense_posterior(seed: int) -> None:
    """Block elimination gives mean and deviation of the joint Gaussian, an unplayed arm included."""
    arms, X, r = rounds(seed)
    model = CoupledArms(K, D, HYPER)
    model.refresh(sums_of(arms, X, r))
    for x in rounds(seed + 100, 3)[1]:
        for found, expected in zip(model.score(x), dense(arms, X, r, x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rank_one_equals_the_dense_posterior(seed: int) -> None:
    """Learning reward by reward ends at the joint Gaussian of all of them."""
    arms, X, r = rounds(seed, 200)
    model = CoupledArms(K, D, HYPER)
    for k, x, reward in zip(arms, X, r, strict=True):
        model.learn(int(k), x, float(reward))
    x = rounds(seed + 100, 1)[1][0]
    for found, expected in zip(model.score(x), dense(arms, X, r, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_rank_one_goes_on_from_a_refresh() -> None:
    """A refresh from sums and rewards learned after it are one posterior."""
    arms, X, r = rounds(7)
    model = CoupledArms(K, D, HYPER)
    model.refresh(sums_of(arms[:40], X[:40], r[:40]))
    for k, x, reward in zip(arms[40:], X[40:], r[40:], strict=True):
        model.learn(int(k), x, float(reward))
    for found, expected in zip(model.score(X[0]), dense(arms, X, r, X[0]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_refresh_forgets_what_was_learned_in_between() -> None:
    """The sums are the truth: learned rewards that they contain are not counted twice."""
    arms, X, r = rounds(8)
    model = CoupledArms(K, D, HYPER)
    model.learn(0, X[0], 1.0)
    model.refresh(sums_of(arms, X, r))
    np.testing.assert_allclose(model.score(X[1])[0], dense(arms, X, r, X[1])[0], rtol=1e-9)


def test_many_scores_equal_single_ones() -> None:
    """A batch of contexts gets what each would get alone."""
    arms, X, r = rounds(9)
    model = CoupledArms(K, D, HYPER)
    model.refresh(sums_of(arms, X, r))
    means, deviations = model.score_many(X[:10])
    assert means.shape == deviations.shape == (10, K)
    for index in range(10):
        mean, deviation = model.score(X[index])
        np.testing.assert_allclose(means[index], mean, rtol=1e-10)
        np.testing.assert_allclose(deviations[index], deviation, rtol=1e-10)


def test_new_arm_starts_at_the_mean_of_the_others_and_wider() -> None:
    """An arm without rewards inherits the shared part and keeps its own doubt."""
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.normal(size=(200, D - 1)) / 2, np.ones(200)])
    played = [Moments.of(X, np.full(200, level)) for level in (0.2, 0.3, 0.4)]
    model = CoupledArms(K, D, Hyper(m=0.9))
    model.refresh([*played, Moments.zeros(D)])
    mean, deviation = model.score(X[0])
    # The prior mean .9 of the shared part still pulls a little on three arms.
    assert abs(mean[3] - 0.45) < 0.05
    assert deviation[3] > 3 * deviation[:3].max()


def test_without_data_every_arm_has_the_prior_mean() -> None:
    """Before any reward the score is m for all arms, however the context looks."""
    model = CoupledArms(2, D)
    mean, _ = model.score(np.array([0.5, -0.5, 0.5, -0.5, 1.0]))
    np.testing.assert_allclose(mean, [0.6, 0.6])


def test_coefficients_give_the_mean() -> None:
    """θ̂ is in the coordinates of the context: θ̂·ψ is the expected reward."""
    arms, X, r = rounds(2)
    model = CoupledArms(K, D, HYPER)
    model.refresh(sums_of(arms, X, r))
    np.testing.assert_allclose(model.coefficients @ X[0], model.score(X[0])[0], rtol=1e-10)


def test_refresh_refuses_another_number_of_arms() -> None:
    """Sums that do not fit the arms are an error, not a shifted assignment."""
    with pytest.raises(ValueError, match="3 sums for 4 arms"):
        CoupledArms(K, D).refresh([Moments.zeros(D)] * 3)


def test_no_arms_at_all_scores_nothing() -> None:
    """A catalogue that is still empty is no error."""
    model = CoupledArms(0, D)
    model.refresh([])
    assert model.score(np.ones(D))[0].shape == (0,)


class TestOpenDecisions:
    """Decisions without their reward narrow the deviation and leave the mean alone."""

    def played(self) -> tuple[CoupledArms, list[Moments], FloatArray]:
        arms, X, r = rounds(3)
        sums = sums_of(arms, X, r)
        model = CoupledArms(K, D, HYPER)
        model.refresh(sums)
        return model, sums, rounds(33, 6)[1]

    def test_opening_equals_the_dense_deviation_and_keeps_the_mean(self) -> None:
        """The deviation is that of A plus the weighted open contexts, the mean that of A alone."""
        model, sums, X = self.played()
        before = model.score(X[0])[0]
        for k, x in enumerate(X[1:3]):
            model.open(k, x, 0.4)
            sums[k].A += 0.4 * np.outer(x, x)
        wider = CoupledArms(K, D, HYPER)
        wider.refresh(sums)
        np.testing.assert_array_equal(model.score(X[0])[0], before)
        np.testing.assert_allclose(model.score(X[0])[1], wider.score(X[0])[1], rtol=1e-9)
        np.testing.assert_allclose(model.score_many(X)[1][0], model.score(X[0])[1], rtol=1e-9)

    def test_refresh_with_sums_of_open_ones_is_the_same(self) -> None:
        """A solve from sums and open sums equals opening one by one."""
        model, sums, X = self.played()
        outstanding = [np.zeros((D, D)) for _ in range(K)]
        for x in X[1:]:
            model.open(1, x, 0.5)
            outstanding[1] += 0.5 * np.outer(x, x)
        other = CoupledArms(K, D, HYPER)
        other.refresh(sums, outstanding)
        for found, expected in zip(model.score(X[0]), other.score(X[0]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_reward_of_an_opened_decision_counts_once(self) -> None:
        """When the reward comes, the deviation ends where plain learning ends."""
        model, _, X = self.played()
        plain, _, _ = self.played()
        model.open(2, X[1], 0.3)
        model.open(0, X[2], 1.0)
        model.learn(2, X[1], 0.9, opened=0.3)
        model.learn(0, X[2], 0.1, opened=1.0)
        plain.learn(2, X[1], 0.9)
        plain.learn(0, X[2], 0.1)
        for found, expected in zip(model.score(X[0]), plain.score(X[0]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_next_refresh_forgets_them(self) -> None:
        """What is open is said anew at each refresh."""
        model, sums, X = self.played()
        before = model.score(X[0])
        model.open(1, X[1])
        model.refresh(sums)
        np.testing.assert_allclose(model.score(X[0])[1], before[1], rtol=1e-12)
