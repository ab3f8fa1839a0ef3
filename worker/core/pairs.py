"""Battles as sums per pair of models, and the prior that they make of any catalog.

A vote on one's own traffic says (θ_a − θ_b)ᵀψ ≈ y with y ∈ {−1, 0, 1}, in the very
Gaussian of `coupled`. Votes on one prompt judge the same answers, so they share noise:
with one row of D per vote, +1 for a and −1 for b, the covariance of the votes on a prompt
is σ²V, V = DDᵀ + κI, with κ for the noise of voting itself. Votes count by V⁻¹; were they
taken for independent, an answer that happened to be good would look like skill.

The exact posterior couples the arms beyond what sums per arm can hold. An arm gets the
exact mean and, of the precision, its diagonal block. Both hold for one set of
hyper-parameters and of arms, so what is kept are the pairs, and arms are solved from
them. Votes from elsewhere teach only averages.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.coupled import Hyper
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray

Pair = tuple[str, str]
IntArray = NDArray[np.int64]
_Shares = dict[tuple[int, int], list[tuple[int, float]]]

# Of votes from elsewhere: how much wider votes differ than rewards, and the variance of the mean they suggest.
_FOREIGN_SCALE = 2.0
_FOREIGN_VARIANCE = 0.03


@dataclass(frozen=True)
class PairSums:
    """What the battles said, by pair (a, b) of models, a before b in `models`.

    Of each pair: A = X_ab = Σ w ψψᵀ with w = −(DᵀV⁻¹D)_ab, b = h_ab = Σ (V⁻¹y) ψ, the count
    of its battles, Σ y and Σ y·(V⁻¹y); y is 1 where a won. Two models that met others on the
    same prompt share a weight without a battle. `vote_noise` is κ, `log_determinant` Σ ln|V|
    over the prompts. `foreign`: the votes are not of one's own traffic, and only their
    counts and outcomes are used.
    """

    models: tuple[str, ...]
    pairs: Mapping[Pair, Moments]
    vote_noise: float = 1.0
    log_determinant: float = 0.0
    foreign: bool = False

    @property
    def dimension(self) -> int:
        """Length d of a context."""
        return next(iter(self.pairs.values())).dimension

    @property
    def counts(self) -> dict[str, int]:
        """Battles of each model."""
        return {m: sum(pair.n for names, pair in self.pairs.items() if m in names) for m in self.models}

    def arms(self, models: Sequence[str], hyper: Hyper) -> dict[str, ArmStatistics]:
        """A_k⁰, b_k⁰ of these models, for a coupled solve of them with `hyper`; one without battles is left out.

        Battles with models that are not asked for count: they say who is strong by a detour.
        """
        known = [model for model in models if model in self.models]
        if not known:
            return {}
        return self._averages(known, hyper) if self.foreign else self._solved(known, hyper)

    def _solved(self, models: Sequence[str], hyper: Hyper) -> dict[str, ArmStatistics]:
        """Sums under which a coupled solve of these models has exactly their part of the mean θ⁰."""
        theta = self._mean(hyper)[[self.models.index(model) for model in models]]
        own, shared = hyper.own(self.dimension), hyper.shared(self.dimension)
        away = theta - hyper.mean(self.dimension)
        # The prior precision of the models that are asked for, by Sherman–Morrison in each coordinate.
        lean = away / own - shared / (own * (own + len(models) * shared)) * away.sum(axis=0)
        counts, found = self.counts, {}
        for model, mean, pulled in zip(models, theta, lean, strict=True):
            A = np.sum([pair.A for names, pair in self.pairs.items() if model in names], axis=0)
            reward = Moments(A, hyper.sigma2 * pulled + A @ mean, counts[model])
            found[model] = ArmStatistics(reward, Moments.zeros(self.dimension))
        return found

    def _mean(self, hyper: Hyper) -> FloatArray:
        """θ⁰ of all models, kept: a catalog changes more often than what the votes say."""
        if hyper not in self._means:
            self._means[hyper] = BattlePosterior(self).mean(hyper)
        return self._means[hyper]

    @cached_property
    def _means(self) -> dict[Hyper, FloatArray]:
        return {}

    def strengths(self) -> dict[str, float]:
        """Least-squares strength of each model from its outcomes alone, mean 0."""
        index = {model: k for k, model in enumerate(self.models)}
        # The ridge of one lost vote keeps a model of few votes near the mean.
        system, net = np.eye(len(index)), np.zeros(len(index))
        for (a, b), pair in self.pairs.items():
            side = np.zeros(len(index))
            side[index[a]], side[index[b]] = 1.0, -1.0
            system += pair.n * np.outer(side, side)
            net += pair.total * side
        found = np.linalg.solve(system, net)
        return dict(zip(self.models, (found - found.mean()).tolist(), strict=True))

    def _averages(self, models: Sequence[str], hyper: Hyper) -> dict[str, ArmStatistics]:
        """One pseudo-observation of each intercept, around m: votes say who is better, not how good all are."""
        strengths, counts = self.strengths(), self.counts
        level = sum(strengths[model] for model in models) / len(models)
        found = {}
        for model in models:
            arm = ArmStatistics.zeros(self.dimension)
            arm.reward.A[-1, -1] = hyper.sigma2 / _FOREIGN_VARIANCE
            arm.reward.b[-1] = arm.reward.A[-1, -1] * (hyper.m + (strengths[model] - level) / _FOREIGN_SCALE)
            arm.reward.n = counts[model]
            found[model] = arm
        return found


def gather(
    models: tuple[str, ...],
    contexts: FloatArray,
    *,
    prompt: IntArray,
    a: IntArray,
    b: IntArray,
    outcome: FloatArray,
    vote_noise: float = 1.0,
    foreign: bool = False,
) -> PairSums:
    """The sums of n battles, arrays of shape (n,).

    `a` and `b` index `models`, `prompt` the rows of `contexts`, of shape (m, d); `outcome`
    is 1 where a won, −1 where b won, 0 for a tie.
    """
    votes = _Votes(prompt, np.minimum(a, b), np.maximum(a, b), np.where(a < b, outcome, -outcome))
    weighed, shares, log_determinant = _weighed(votes, vote_noise)
    pairs = {}
    for (first, last), share in sorted(shares.items()):
        psi, weight = contexts[[q for q, _ in share]], np.array([w for _, w in share])
        X = (psi * weight[:, None]).T @ psi
        rows = np.flatnonzero((votes.first == first) & (votes.last == last))
        y, pull = votes.y[rows], weighed[rows]
        moments = Moments((X + X.T) / 2, contexts[prompt[rows]].T @ pull, len(rows), float(y.sum()), float(y @ pull))
        pairs[models[first], models[last]] = moments
    return PairSums(models, pairs, vote_noise, log_determinant, foreign)


class _Votes(NamedTuple):
    """Votes with the smaller of the two model numbers first; y is 1 where that one won."""

    prompt: IntArray
    first: IntArray
    last: IntArray
    y: FloatArray


def _weighed(votes: _Votes, vote_noise: float) -> tuple[FloatArray, _Shares, float]:
    """V⁻¹y of every vote, shape (n,); by pair of models (prompt, w) for every prompt that links them; Σ ln|V|."""
    weighed, shares, log_determinant = np.zeros(len(votes.y)), defaultdict(list), 0.0
    for rows in _by_prompt(votes.prompt):
        first, last = votes.first[rows], votes.last[rows]
        arms = np.unique(np.concatenate([first, last]))
        D = (arms == first[:, None]).astype(np.float64) - (arms == last[:, None])
        V = D @ D.T + vote_noise * np.eye(len(rows))
        log_determinant += float(np.linalg.slogdet(V)[1])
        inverse = np.linalg.inv(V)
        weighed[rows] = inverse @ votes.y[rows]
        weights, prompt = -D.T @ inverse @ D, int(votes.prompt[rows[0]])
        for i, j in itertools.combinations(range(len(arms)), 2):
            shares[int(arms[i]), int(arms[j])].append((prompt, float(weights[i, j])))
    return weighed, shares, log_determinant


def _by_prompt(prompt: IntArray) -> list[IntArray]:
    """The rows of each prompt's votes."""
    order = np.argsort(prompt, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(prompt[order])) + 1) if len(order) else []


class BattlePosterior:
    """The joint Gaussian of all K arms' θ_k given own battles; everything of size Kd, arm after arm.

    Votes see only differences of arms, so the part that all arms share drops out: with the
    own parts alone, whose prior S is diagonal, outcomes are as likely and θ⁰ is m plus
    their mean. What is solved is I + S^½ G S^½/σ², G the precision of all votes, by its
    Cholesky factor L.
    """

    def __init__(self, sums: PairSums) -> None:
        self._sums = sums
        self._count, self._dimension = len(sums.models), sums.dimension
        index = {model: k for k, model in enumerate(sums.models)}
        gram: FloatArray = np.zeros((self._count, self._dimension, self._count, self._dimension))
        moment = np.zeros((self._count, self._dimension))
        for (name_a, name_b), pair in sums.pairs.items():
            a, b = index[name_a], index[name_b]
            gram[a, :, a] += pair.A
            gram[b, :, b] += pair.A
            gram[a, :, b] -= pair.A
            gram[b, :, a] -= pair.A
            moment[a] += pair.b
            moment[b] -= pair.b
        self._gram = gram.reshape(self._count * self._dimension, -1)
        self._moment = moment.ravel()

    def evidence(self, hyper: Hyper) -> float:
        """Log density of all outcomes; τ_s² and m change nothing."""
        L, pull = self._system(hyper)
        fit = float((self._forward(L, pull) ** 2).sum())
        logs = 2 * float(np.log(np.diagonal(L)).sum()) + self._sums.log_determinant
        votes = sum(pair.n for pair in self._sums.pairs.values())
        squares = sum(pair.squares for pair in self._sums.pairs.values())
        noise = hyper.sigma2
        return -0.5 * (votes * float(np.log(2 * np.pi * noise)) + squares / noise - fit + logs)

    def mean(self, hyper: Hyper) -> FloatArray:
        """θ⁰, the exact posterior mean of every arm, shape (K, d)."""
        L, pull = self._system(hyper)
        # Backwards through Lᵀ is forwards through both turned round.
        whitened = self._forward(L.T[::-1, ::-1], self._forward(L, pull)[::-1])[::-1]
        own: FloatArray = np.sqrt(hyper.own(self._dimension)) * whitened.reshape(self._count, self._dimension)
        return own + hyper.mean(self._dimension)

    def _system(self, hyper: Hyper) -> tuple[FloatArray, FloatArray]:
        """L and S^½ h/σ²."""
        root = np.tile(np.sqrt(hyper.own(self._dimension)), self._count)
        total = self._gram * (root / hyper.sigma2)
        total *= root[:, None]
        total[np.diag_indices_from(total)] += 1.0
        L: FloatArray = np.asarray(np.linalg.cholesky(total), dtype=np.float64)
        return L, root * self._moment / hyper.sigma2

    def _forward(self, L: FloatArray, right: FloatArray) -> FloatArray:
        """Solve L x = right, block by block: numpy has no solve for a triangle."""
        x = np.empty_like(right)
        for end in range(self._dimension, len(right) + 1, self._dimension):
            own = slice(end - self._dimension, end)
            x[own] = np.linalg.solve(L[own, own], right[own] - L[own, : own.start] @ x[: own.start])
        return x
