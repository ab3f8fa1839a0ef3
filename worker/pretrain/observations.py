"""A prior from battles, read as noisy observations of reward differences.

A vote on one's own traffic says (θ_a − θ_b)ᵀψ ≈ y with y ∈ {−1, 0, 1}, in the very
Gaussian of the coupled arms. Its exact posterior couples the arms beyond what sums per
arm can hold; what is kept is its exact mean and, of its precision, the arms' diagonal
blocks, discounted for the rest. Votes from elsewhere teach only the models' averages.
"""

from __future__ import annotations

import numpy as np

from worker.core.coupled import Hyper
from worker.core.evidence import maximise
from worker.core.prior import Prior, default_prior
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray
from worker.pretrain.battles import Battles
from worker.pretrain.features import fit_features, sample

# A difference of two rewards has the noise of both.
_NOISE = 2.0
# Share of the diagonal blocks that counts: the blocks between arms, which are dropped, would take back about as much.
_DISCOUNT = 0.5
# Of votes from elsewhere: how much wider votes differ than rewards, and the variance of the mean they suggest.
_FOREIGN_SCALE = 2.0
_FOREIGN_VARIANCE = 0.03


def build(battles: Battles, embeddings: FloatArray, *, encoder_id: str, seed: int = 0) -> Prior:
    """Own votes, embeddings of the distinct prompts of shape (m, E) → a prior of kind `battles`.

    Features are fitted on these prompts and hyper-parameters by the evidence of the votes.
    """
    projection = fit_features(embeddings, encoder_id, battles.prompts, battles.tasks, seed=seed)
    contexts = projection.contexts(embeddings, battles.prompts, battles.tasks)
    posterior = BattlePosterior(battles, contexts)
    hyper = maximise(posterior.evidence, Hyper())
    return Prior(
        kind="battles",
        projection=projection,
        contexts=sample(contexts, seed),
        models=battles.models,
        statistics=dict(zip(battles.models, posterior.sums(hyper), strict=True)),
        hyper=hyper,
        report=_report(battles),
    )


def build_foreign(battles: Battles) -> Prior:
    """Votes from elsewhere → averages of the models on the shipped projection."""
    shipped = default_prior()
    hyper, dimension = Hyper(), shipped.projection.dimension
    statistics = {}
    for model, strength, count in zip(battles.models, strengths(battles), battles.counts, strict=True):
        # One pseudo-observation of the intercept whose variance is _FOREIGN_VARIANCE.
        moments = Moments.zeros(dimension)
        moments.A[-1, -1] = hyper.sigma2 / _FOREIGN_VARIANCE
        moments.b[-1] = moments.A[-1, -1] * (hyper.m + strength / _FOREIGN_SCALE)
        moments.n = int(count)
        statistics[model] = ArmStatistics(moments, Moments.zeros(dimension))
    return Prior(
        "battles", shipped.projection, shipped.contexts, battles.models, statistics, hyper, report=_report(battles)
    )


def strengths(battles: Battles) -> FloatArray:
    """Least-squares strength of each model from its outcomes, shape (K,), mean 0."""
    count = len(battles.models)
    design = np.zeros((len(battles), count))
    rows = np.arange(len(battles))
    design[rows, battles.a], design[rows, battles.b] = 1.0, -1.0
    # The ridge of one lost vote keeps a model of few votes near the mean.
    found = np.linalg.solve(design.T @ design + np.eye(count), design.T @ battles.outcome)
    centred: FloatArray = np.subtract(found, found.mean(), dtype=np.float64)
    return centred


def _report(battles: Battles) -> dict[str, object]:
    return {
        "battles": len(battles),
        "ties": int((battles.outcome == 0).sum()),
        "strengths": dict(zip(battles.models, strengths(battles).round(4).tolist(), strict=True)),
    }


class BattlePosterior:
    """The joint Gaussian of all θ_k given battles; everything of size Kd, arm after arm."""

    def __init__(self, battles: Battles, contexts: FloatArray) -> None:
        """`contexts` has shape (m, d), a row a distinct prompt."""
        self._battles = battles
        self._arms, self._dimension = len(battles.models), contexts.shape[1]
        psi = contexts[battles.prompt]
        design = np.zeros((len(battles), self._arms, self._dimension))
        rows = np.arange(len(battles))
        design[rows, battles.a] += psi
        design[rows, battles.b] -= psi
        flat = design.reshape(len(battles), -1)
        self._gram = flat.T @ flat
        self._moment = flat.T @ battles.outcome
        self._squares = float(battles.outcome @ battles.outcome)

    def evidence(self, hyper: Hyper) -> float:
        """Log density of all outcomes."""
        noise = _NOISE * hyper.sigma2
        precision, start = self._prior(hyper)
        total = precision + self._gram / noise
        pull = precision @ start + self._moment / noise
        fit = float(pull @ np.linalg.solve(total, pull) - start @ precision @ start)
        logs = float(np.linalg.slogdet(total)[1] - np.linalg.slogdet(precision)[1])
        n = len(self._battles)
        return -0.5 * (n * float(np.log(2 * np.pi * noise)) + self._squares / noise - fit + logs)

    def mean(self, hyper: Hyper) -> FloatArray:
        """θ⁰, the exact posterior mean of every arm, shape (K, d)."""
        noise = _NOISE * hyper.sigma2
        precision, start = self._prior(hyper)
        total: FloatArray = precision + self._gram / noise
        theta: FloatArray = np.linalg.inv(total) @ (precision @ start + self._moment / noise)
        return theta.reshape(self._arms, self._dimension)

    def sums(self, hyper: Hyper) -> list[ArmStatistics]:
        """A_k⁰, b_k⁰ under which the coupled solve with these hyper-parameters has exactly the mean θ⁰."""
        precision, start = self._prior(hyper)
        theta = self.mean(hyper)
        lean = (precision @ (theta.ravel() - start)).reshape(theta.shape)
        found = []
        for k, count in enumerate(self._battles.counts):
            block = slice(k * self._dimension, (k + 1) * self._dimension)
            A = _DISCOUNT / _NOISE * self._gram[block, block]
            b = hyper.sigma2 * lean[k] + A @ theta[k]
            found.append(ArmStatistics(Moments(A, b, int(count)), Moments.zeros(self._dimension)))
        return found

    def _prior(self, hyper: Hyper) -> tuple[FloatArray, FloatArray]:
        """Precision (Kd, Kd) and mean (Kd,) of the coupled prior, by Sherman–Morrison in each coordinate."""
        own, shared = hyper.own(self._dimension), hyper.shared(self._dimension)
        between = -shared / (own * (own + self._arms * shared))
        alone = np.kron(np.eye(self._arms), np.diag(1 / own))
        precision: FloatArray = alone + np.kron(np.ones((self._arms, self._arms)), np.diag(between))
        return precision, np.tile(hyper.mean(self._dimension), self._arms)
