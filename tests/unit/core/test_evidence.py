"""Marginal likelihood against the dense Gaussian, and what its maximum finds."""

from __future__ import annotations

import numpy as np
import pytest

from worker.core.coupled import Hyper
from worker.core.evidence import choose, log_evidence, maximise
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

K, D = 3, 6


def drawn(truth: Hyper, n: int, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Arms, contexts and rewards of n rounds from the model itself."""
    rng = np.random.default_rng(seed)
    theta = truth.mean(D) + rng.normal(size=D) * np.sqrt(truth.shared(D))
    own = rng.normal(size=(K, D)) * np.sqrt(truth.own(D))
    X = np.column_stack([rng.normal(size=(n, D - 1)), np.ones(n)])
    arms = rng.integers(0, K, n)
    rewards = np.einsum("nd,nd->n", X, theta + own[arms]) + rng.normal(size=n) * np.sqrt(truth.sigma2)
    return arms, X, rewards


def sums_of(arms: FloatArray, X: FloatArray, r: FloatArray) -> list[Moments]:
    return [Moments.of(X[arms == k], r[arms == k]) for k in range(K)]


@pytest.mark.parametrize(
    "hyper", [Hyper(), Hyper(0.2, 0.004, 0.05, 0.5, 2.0, 0.3), Hyper(task_d2=0.4, task_s2=0.7, task_first=2, tasks=2)]
)
def test_equals_the_density_of_all_rewards(hyper: Hyper) -> None:
    """The sums give exactly the log density of the joint Gaussian of the rewards."""
    arms, X, r = drawn(Hyper(), 40, 1)
    same_arm = arms[:, None] == arms
    covariance = hyper.sigma2 * np.eye(40) + (X * hyper.shared(D)) @ X.T + same_arm * ((X * hyper.own(D)) @ X.T)
    residual = r - X @ hyper.mean(D)
    misfit = float(residual @ np.linalg.solve(covariance, residual))
    expected = -0.5 * (misfit + np.linalg.slogdet(covariance)[1] + 40 * np.log(2 * np.pi))
    assert log_evidence(sums_of(arms, X, r), hyper) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("truth", [Hyper(0.002, 0.01, 0.02), Hyper(0.05, 0.2, 0.5)])
def test_noise_is_recovered(truth: Hyper) -> None:
    """From many rewards the chosen noise variance is the true one, whatever the start."""
    found = choose(sums_of(*drawn(truth, 3000, 2)))
    assert found.sigma2 == pytest.approx(truth.sigma2, rel=0.1)


def test_no_neighbour_is_more_probable() -> None:
    """The search ends at a maximum of evidence times hyper-prior."""
    sums = sums_of(*drawn(Hyper(0.05, 0.01, 0.1), 400, 3))

    def objective(hyper: Hyper) -> float:
        ratios = np.log([hyper.tau_d2 / 0.01, hyper.tau_s2 / 0.03, hyper.sigma2 / 0.2])
        return log_evidence(sums, hyper) - 0.5 * float(ratios @ ratios)

    found = choose(sums)
    for factor in (0.8, 1.25):
        for other in (
            Hyper(found.tau_d2 * factor, found.tau_s2, found.sigma2),
            Hyper(found.tau_d2, found.tau_s2 * factor, found.sigma2),
            Hyper(found.tau_d2, found.tau_s2, found.sigma2 * factor),
        ):
            assert objective(other) < objective(found)


def test_task_indicators_get_variances_of_their_own() -> None:
    """Where labels tell arms apart and nothing else does, one variance grows, the other shrinks."""
    rng = np.random.default_rng(5)
    labels, arms = rng.integers(0, 2, 2_000), rng.integers(0, K, 2_000)
    X = np.column_stack([rng.normal(size=(2_000, 3)), np.eye(2)[labels], np.ones(2_000)])
    r = np.where(labels == arms % 2, 0.9, 0.1) + 0.1 * rng.normal(size=2_000)
    sums = sums_of(arms, X, r)
    alike, apart = choose(sums), choose(sums, Hyper(task_first=3, tasks=2))
    assert apart.task_d2 > alike.tau_d2 > 10 * apart.tau_d2
    assert log_evidence(sums, apart) > log_evidence(sums, alike) + 10


def test_intercept_stays_wide() -> None:
    """Evidence would narrow the intercept; it is not asked."""
    start = Hyper(intercept_d2=0.7, intercept_s2=1.9, m=0.4)
    found = choose(sums_of(*drawn(Hyper(), 500, 4)), start)
    assert (found.intercept_d2, found.intercept_s2, found.m) == (0.7, 1.9, 0.4)


def test_without_rewards_the_start_stays() -> None:
    """Nothing is chosen from nothing."""
    start = Hyper(tau_d2=0.5)
    assert choose([Moments.zeros(D)] * K, start) is start
    assert choose([], start) is start


def test_rewards_without_noise_end_at_the_bounds() -> None:
    """Constant rewards drive the noise down only to a factor of 300 below its centre."""
    X = np.column_stack([np.random.default_rng(0).normal(size=(300, D - 1)), np.ones(300)])
    found = choose([Moments.of(X, np.ones(300)) for _ in range(K)])
    assert found.sigma2 >= 0.2 / 300 * 0.999
    assert found.tau_d2 >= 0.01 / 300 * 0.999


def test_only_what_is_named_is_searched_for() -> None:
    """Where the evidence does not depend on a variance it keeps its start, and the others are found all the same."""
    found = maximise(lambda hyper: -50 * (np.log(hyper.tau_d2) + 4) ** 2, Hyper(tau_s2=0.5), ("tau_d2", "sigma2"))
    assert found.tau_s2 == 0.5
    assert found.tau_d2 == pytest.approx(np.exp(-4), rel=0.05)
    assert found.sigma2 == pytest.approx(Hyper().sigma2, rel=0.05)
