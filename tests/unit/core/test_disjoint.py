"""Disjoint LinUCB against its formulas."""

from __future__ import annotations

import numpy as np
import pytest

from worker.core.coupled import CoupledArms, Hyper
from worker.core.disjoint import DisjointArms
from worker.core.statistics import Moments

K, D = 3, 4
RIDGE = np.array([0.5, 1.0, 2.0])
RNG = np.random.default_rng(11)
MEANS = RNG.normal(size=(K, D))
X = RNG.normal(size=(50, D))
played = RNG.integers(0, K, 50)
R = RNG.random(50)
SUMS = [Moments.of(X[played == k], R[played == k]) for k in range(K)]


def expected(x: np.ndarray) -> tuple[list[float], list[float]]:
    mean, deviation = [], []
    for k in range(K):
        A = RIDGE[k] * np.eye(D) + X[played == k].T @ X[played == k]
        theta = np.linalg.solve(A, RIDGE[k] * MEANS[k] + X[played == k].T @ R[played == k])
        mean.append(float(theta @ x))
        deviation.append(float(np.sqrt(x @ np.linalg.solve(A, x))))
    return mean, deviation


def test_solve_is_the_ridge_of_the_paper() -> None:
    """A⁻¹b and √(xᵀA⁻¹x) with A = λI + Σψψᵀ, b = λθ⁰ + Σrψ."""
    model = DisjointArms(K, D, RIDGE, MEANS)
    model.refresh(SUMS)
    for found, wanted in zip(model.score(X[0]), expected(X[0]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_rank_one_is_the_same_solve() -> None:
    """Learning one by one ends where the sums do."""
    model = DisjointArms(K, D, RIDGE, MEANS)
    for k, x, r in zip(played, X, R, strict=True):
        model.learn(int(k), x, float(r))
    for found, wanted in zip(model.score(X[0]), expected(X[0]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("cosine", [False, True])
def test_many_scores_equal_single_ones(*, cosine: bool) -> None:
    """A batch of contexts gets what each would get alone."""
    model = DisjointArms(K, D, RIDGE, MEANS, cosine=cosine)
    model.refresh(SUMS)
    means, deviations = model.score_many(X[:6])
    for index in range(6):
        mean, deviation = model.score(X[index])
        np.testing.assert_allclose(means[index], mean, rtol=1e-10)
        np.testing.assert_allclose(deviations[index], deviation, rtol=1e-10)


def test_cosine_ignores_the_length_of_the_coefficients() -> None:
    """With the paper's score, an arm is as good as its direction fits."""
    means = np.array([[3.0, 0, 0, 0], [0.1, 0.1, 0, 0], [0.0, 0, 0, 0]])
    model = DisjointArms(K, D, 1.0, means, cosine=True)
    np.testing.assert_allclose(model.score(np.array([2.0, 0, 0, 0]))[0], [1, np.sqrt(0.5), 0], atol=1e-12)


def test_arms_do_not_learn_from_each_other() -> None:
    """A reward of one arm leaves the scores of the others alone."""
    model = DisjointArms(K, D, RIDGE, MEANS)
    before = model.score(X[0])
    model.learn(0, X[0], 1.0)
    after = model.score(X[0])
    np.testing.assert_array_equal(before[0][1:], after[0][1:])
    np.testing.assert_array_equal(before[1][1:], after[1][1:])


def test_it_is_the_limit_of_coupled_arms_without_a_shared_part() -> None:
    """For S_s → 0, intercept included, the coupled posterior is this one, its variance times σ²."""
    tiny = Hyper(tau_d2=0.5, tau_s2=1e-12, sigma2=0.2, intercept_d2=0.5, intercept_s2=1e-12, m=0.0)
    coupled, disjoint = CoupledArms(K, D, tiny), DisjointArms(K, D, 0.2 / 0.5)
    coupled.refresh(SUMS)
    disjoint.refresh(SUMS)
    mean, deviation = disjoint.score(X[0])
    np.testing.assert_allclose(coupled.score(X[0])[0], mean, rtol=1e-6)
    np.testing.assert_allclose(coupled.score(X[0])[1], deviation * np.sqrt(0.2), rtol=1e-6)


def test_refresh_refuses_another_number_of_arms() -> None:
    """Sums that do not fit the arms are an error, not a shifted assignment."""
    with pytest.raises(ValueError, match="2 sums for 3 arms"):
        DisjointArms(K, D).refresh(SUMS[:2])
