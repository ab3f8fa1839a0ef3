"""Sums per pair of models against the dense Gaussian of all votes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from worker.core.coupled import CoupledArms, Hyper
from worker.core.pairs import BattlePosterior, PairSums, gather
from worker.core.verdict import FloatArray

MODELS = ("a", "b", "c", "d")
K, D, PROMPTS, VOTES, KAPPA = 4, 5, 30, 90, 0.4
HYPER = Hyper(0.03, 0.08, 0.3, 0.8, 1.1, 0.5)
COVARIANCE = np.kron(np.eye(K), np.diag(HYPER.own(D))) + np.kron(np.ones((K, K)), np.diag(HYPER.shared(D)))
START = np.tile(HYPER.mean(D), K)


class Drawn(NamedTuple):
    """Votes, several on most prompts, some of them on the same pair."""

    prompt: np.ndarray
    a: np.ndarray
    b: np.ndarray
    outcome: FloatArray
    contexts: FloatArray

    def sums(self) -> PairSums:
        return gather(
            MODELS, self.contexts, prompt=self.prompt, a=self.a, b=self.b, outcome=self.outcome, vote_noise=KAPPA
        )

    @property
    def design(self) -> FloatArray:
        """One row a vote, ψ in the block of a and −ψ in that of b."""
        sides = np.eye(K)[self.a] - np.eye(K)[self.b]
        return (sides[:, :, None] * self.contexts[self.prompt][:, None, :]).reshape(VOTES, -1)

    @property
    def noise(self) -> FloatArray:
        """Covariance of the votes' noise: answers are shared on a prompt, and each vote has its own."""
        sides = np.eye(K)[self.a] - np.eye(K)[self.b]
        shared = (sides @ sides.T) * (self.prompt[:, None] == self.prompt)
        return HYPER.sigma2 * (shared + KAPPA * np.eye(VOTES))


def drawn(seed: int) -> Drawn:
    rng = np.random.default_rng(seed)
    contexts = np.column_stack([rng.normal(size=(PROMPTS, D - 1)), np.ones(PROMPTS)])
    a = rng.integers(0, K, VOTES)
    b = (a + rng.integers(1, K, VOTES)) % K
    return Drawn(rng.integers(0, PROMPTS, VOTES), a, b, rng.integers(-1, 2, VOTES).astype(np.float64), contexts)


def dense_mean(votes: Drawn) -> FloatArray:
    design = votes.design
    gain = COVARIANCE @ design.T @ np.linalg.inv(design @ COVARIANCE @ design.T + votes.noise)
    return (START + gain @ (votes.outcome - design @ START)).reshape(K, D)


@pytest.mark.parametrize("seed", range(3))
def test_mean_is_that_of_the_dense_gaussian(seed: int) -> None:
    """θ⁰ from the sums per pair is the posterior mean given every single vote with its correlated noise."""
    votes = drawn(seed)
    np.testing.assert_allclose(BattlePosterior(votes.sums()).mean(HYPER), dense_mean(votes), rtol=1e-9, atol=1e-10)


def test_evidence_is_the_density_of_the_outcomes() -> None:
    """The log evidence equals the log density of the joint Gaussian of all outcomes."""
    votes = drawn(3)
    covariance = votes.design @ COVARIANCE @ votes.design.T + votes.noise
    residual = votes.outcome - votes.design @ START
    logs = np.linalg.slogdet(covariance)[1] + VOTES * np.log(2 * np.pi)
    expected = -0.5 * (float(residual @ np.linalg.solve(covariance, residual)) + logs)
    assert BattlePosterior(votes.sums()).evidence(HYPER) == pytest.approx(expected, rel=1e-9)


def test_votes_say_nothing_of_what_all_arms_share() -> None:
    """Neither τ_s² nor m changes how likely votes are, and neither moves a difference of two arms."""
    found = BattlePosterior(drawn(3).sums())
    other = replace(HYPER, tau_s2=2.0, intercept_s2=0.1, m=0.1)
    assert found.evidence(other) == pytest.approx(found.evidence(HYPER), rel=1e-12)
    means = [found.mean(hyper) for hyper in (HYPER, other)]
    np.testing.assert_allclose(means[0] - means[0][0], means[1] - means[1][0], atol=1e-12)


def test_a_new_catalog_is_not_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of all models is solved once for its hyper-parameters, whichever of them are asked for."""
    sums, solved = drawn(4).sums(), []
    mean = BattlePosterior.mean
    monkeypatch.setattr(BattlePosterior, "mean", lambda self, hyper: solved.append(hyper) or mean(self, hyper))
    for catalog in (MODELS, ("d", "b")):
        sums.arms(catalog, HYPER)
    sums.arms(MODELS, replace(HYPER, sigma2=0.1))
    assert solved == [HYPER, replace(HYPER, sigma2=0.1)]


@pytest.mark.parametrize("catalog", [MODELS, ("d", "b"), ("c",)])
def test_any_catalog_is_solved_to_its_part_of_the_mean(catalog: tuple[str, ...]) -> None:
    """A coupled solve of the models that there are has the joint mean of all battles, and less doubt than without."""
    votes = drawn(4)
    known = votes.sums().arms(catalog, HYPER)
    model, blank = (CoupledArms(len(catalog), D, HYPER) for _ in range(2))
    model.refresh([known[name].reward for name in catalog])
    expected = dense_mean(votes)[[MODELS.index(name) for name in catalog]]
    np.testing.assert_allclose(model.coefficients, expected, rtol=1e-9, atol=1e-9)
    assert (model.score(votes.contexts[0])[1] < blank.score(votes.contexts[0])[1]).all()


def test_other_hyper_parameters_give_their_own_mean() -> None:
    """Solved again with another noise the sums have that noise's mean, which the old sums miss."""
    votes = drawn(5)
    other = replace(HYPER, sigma2=0.05, tau_d2=0.2)
    means = []
    for solved_with in (other, HYPER):
        known = votes.sums().arms(MODELS, solved_with)
        model = CoupledArms(K, D, other)
        model.refresh([known[name].reward for name in MODELS])
        means.append(model.coefficients)
    expected = BattlePosterior(votes.sums()).mean(other)
    np.testing.assert_allclose(means[0], expected, rtol=1e-9, atol=1e-9)
    assert np.abs(means[1] - expected).max() > 0.01


def test_a_model_without_battles_changes_nothing() -> None:
    """A catalog with a newcomer leaves it out, and a solve with the newcomer keeps the others where they were."""
    votes = drawn(6)
    known = votes.sums().arms((*MODELS, "new"), HYPER)
    assert tuple(known) == MODELS
    model = CoupledArms(K + 1, D, HYPER)
    nothing = known["a"].reward.copy()
    nothing.A[:], nothing.b[:] = 0.0, 0.0
    model.refresh([*(known[name].reward for name in MODELS), nothing])
    np.testing.assert_allclose(model.coefficients[:K], dense_mean(votes), rtol=1e-9, atol=1e-9)


def test_one_battle_a_prompt_is_a_plain_sum() -> None:
    """Without shared answers X_ab is Σψψᵀ and h_ab Σyψ of the pair's battles, over the noise of a vote."""
    votes = drawn(7)
    alone = votes._replace(prompt=np.arange(VOTES), contexts=np.random.default_rng(7).normal(size=(VOTES, D)))
    for (first, last), pair in alone.sums().pairs.items():
        i, j = MODELS.index(first), MODELS.index(last)
        same, swapped = (alone.a == i) & (alone.b == j), (alone.a == j) & (alone.b == i)
        psi, y = alone.contexts[same | swapped], np.where(same, alone.outcome, -alone.outcome)[same | swapped]
        np.testing.assert_allclose(pair.A, psi.T @ psi / (2 + KAPPA), atol=1e-12)
        np.testing.assert_allclose(pair.b, psi.T @ y / (2 + KAPPA), atol=1e-12)
        assert (pair.n, pair.total) == (len(y), y.sum())


def test_the_same_vote_again_says_little() -> None:
    """Ten votes on one pair of answers are worth hardly more than one: the answers are the same."""
    contexts = np.ones((1, 1))
    hyper = Hyper(intercept_d2=0.5, sigma2=0.2)

    def lead(votes: int) -> float:
        zeros, ones = np.zeros(votes, np.int64), np.ones(votes, np.int64)
        sums = gather(("a", "b"), contexts, prompt=zeros, a=zeros, b=ones, outcome=np.ones(votes), vote_noise=0.1)
        theta = BattlePosterior(sums).mean(hyper)
        return float(theta[0, 0] - theta[1, 0])

    # Variance .5·2 of the difference against noise .2·(2 + .1/n).
    assert lead(1) == pytest.approx(1 / (1 + 0.2 * 2.1))
    assert lead(10) == pytest.approx(1 / (1 + 0.2 * 2.01))


def test_strengths_follow_the_wins() -> None:
    """The averages rank the models by their outcomes, sum to 0, and a single vote is pulled half-way."""
    zeros, ones = np.zeros(1, np.int64), np.ones(1, np.int64)
    found = gather(("a", "b"), np.ones((1, 1)), prompt=zeros, a=ones, b=zeros, outcome=np.ones(1)).strengths()
    assert found == pytest.approx({"a": -1 / 3, "b": 1 / 3})


def test_foreign_averages_are_centred_on_the_catalog() -> None:
    """Votes from elsewhere tell models apart: whichever models there are, their mean stays at m."""
    votes = drawn(8)
    sums = replace(votes.sums(), foreign=True)
    strength = sums.strengths()
    known = sums.arms(("a", "b"), HYPER)
    means = [float(known[m].reward.b[-1] / known[m].reward.A[-1, -1]) for m in ("a", "b")]
    assert np.mean(means) == pytest.approx(HYPER.m)
    assert means[0] - means[1] == pytest.approx((strength["a"] - strength["b"]) / 2)
    assert known["a"].reward.A[-1, -1] == pytest.approx(HYPER.sigma2 / 0.03)
    assert np.count_nonzero(known["a"].reward.A) == 1
