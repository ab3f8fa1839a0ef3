"""The paper's pre-training on preferences, in its two phases (PILOT, arXiv 2508.21141, section 3).

Phase 1 learns ψ = Wφ + b by a triplet loss with cosine distance: queries that a model
won lie near each other, away from those that it lost. Phase 2 freezes W and b and
learns one direction θ_k per model by cross-entropy on the softmax of two cosines.
Where the paper is silent: margin .3, Adam at 1e-3, W starts as PCA, ties have target ½
in phase 2, training stops when held-back preference accuracy no longer rises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.core.kinds import unit
from worker.core.prior import PreferencePrior, Prior
from worker.core.projection import Projection, fit, stored
from worker.core.verdict import FloatArray
from worker.pretrain.battles import Battles, IntArray
from worker.pretrain.features import sample
from worker.pretrain.holdout import accuracy, foretold, hold_back, part

_MARGIN = 0.3
_RATE = 1e-3
_BATCH = 256
_BATCHES_PER_EPOCH = 20
_EPOCHS = 40
_PATIENCE = 10
_HARD = 0.5  # share of negatives on which the model lost to a weaker one
_PHASE2_STEPS = 150
_PHASE2_RATE = 0.05
_LEAST_ACCURACY = 0.05


def build(battles: Battles, embeddings: FloatArray, *, encoder_id: str, strength: float = 1.0, seed: int = 0) -> Prior:
    """Votes, embeddings of the distinct prompts (m, E) → a prior of kind `triplet`.

    λ_k = strength ÷ accuracy of arm k; the paper's strength of 1 is worth about 1.5
    observations in each direction.
    """
    train, test = hold_back(battles, seed)
    start = fit(embeddings, encoder_id)
    layer = _first_phase(train, unit(embeddings) - start.mean, start.components, seed + 1)
    projection = _projection(start, layer)
    contexts = projection.contexts(embeddings, battles.prompts, [None] * len(battles.prompts))
    theta = second_phase(battles, contexts)
    right = arm_accuracy(battles, contexts, theta)
    return Prior(
        kind="triplet",
        projection=projection,
        contexts=sample(contexts, seed),
        models=battles.models,
        preference=PreferencePrior(theta, strength / np.maximum(right, _LEAST_ACCURACY)),
        report={
            "battles": len(battles),
            "ties": int((battles.outcome == 0).sum()),
            "counts": dict(zip(battles.models, battles.counts.tolist(), strict=True)),
            "arm_accuracy": dict(zip(battles.models, right.round(4).tolist(), strict=True)),
            "held_back": foretold(train, test, margins(test, contexts, second_phase(train, contexts))),
        },
    )


def _projection(start: Projection, layer: _Layer) -> Projection:
    """W(φ − mean) + b, written as W(φ − another mean)."""
    mean = start.mean - np.linalg.pinv(layer.W) @ layer.b
    return Projection(start.encoder, stored(mean), stored(layer.W), constant=False)


class _Adam:
    """Adam (Kingma and Ba 2015) on one array, in place."""

    def __init__(self, values: FloatArray, rate: float) -> None:
        self._values, self._rate, self._step = values, rate, 0
        self._mean, self._square = np.zeros_like(values), np.zeros_like(values)

    def descend(self, gradient: FloatArray) -> None:
        self._step += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean, square = self._mean / (1 - 0.9**self._step), self._square / (1 - 0.999**self._step)
        self._values -= self._rate * mean / (np.sqrt(square) + 1e-8)


@dataclass
class _Layer:
    """W of shape (p, E) and b of shape (p,)."""

    W: FloatArray
    b: FloatArray

    def of(self, phi: FloatArray) -> FloatArray:
        return phi @ self.W.T + self.b

    def copy(self) -> _Layer:
        return _Layer(self.W.copy(), self.b.copy())


def _first_phase(battles: Battles, phi: FloatArray, start: FloatArray, seed: int) -> _Layer:
    rng = np.random.default_rng(seed)
    train, stop = hold_back(battles, seed)
    layer = _Layer(start.copy(), np.zeros(len(start)))
    pools = _Pools(train)
    if not pools.models:
        return layer
    steps = _Adam(layer.W, _RATE), _Adam(layer.b, _RATE)
    best, best_accuracy, waited = layer.copy(), -1.0, 0
    for _ in range(_EPOCHS):
        contexts = unit(layer.of(phi))
        found = preference_accuracy(stop, contexts, second_phase(train, contexts))
        if found > best_accuracy:
            best, best_accuracy, waited = layer.copy(), found, 0
        elif (waited := waited + 1) >= _PATIENCE:
            break
        for _ in range(_BATCHES_PER_EPOCH):
            _descend(layer, phi, pools.draw(rng), steps)
    return best


def _descend(layer: _Layer, phi: FloatArray, triplets: IntArray, steps: tuple[_Adam, _Adam]) -> None:
    """One step on max(0, d(a, +) − d(a, −) + margin), d = 1 − cos, for triplets of shape (n, 3)."""
    inputs = phi[triplets]
    raw = layer.of(inputs)
    psi = unit(raw)
    anchor, positive, negative = psi[:, 0], psi[:, 1], psi[:, 2]
    loss = np.vecdot(anchor, negative) - np.vecdot(anchor, positive) + _MARGIN
    active = (loss > 0)[:, None, None] / len(triplets)
    slope = np.stack([negative - positive, -anchor, anchor], axis=1) * active
    slope = _through_unit(slope, psi, raw)
    steps[0].descend(np.einsum("ntp,nte->pe", slope, inputs))
    steps[1].descend(slope.sum(axis=(0, 1)))


def _through_unit(slope: FloatArray, directions: FloatArray, raw: FloatArray) -> FloatArray:
    """Gradient with respect to vectors from that with respect to their directions."""
    tangent = slope - np.vecdot(slope, directions)[..., None] * directions
    found: FloatArray = tangent / np.maximum(np.linalg.norm(raw, axis=-1), 1e-12)[..., None]
    return found


class _Pools:
    """Prompts that each model won, lost, and lost to a weaker model."""

    def __init__(self, battles: Battles) -> None:
        count = len(battles.models)
        winner = np.where(battles.outcome > 0, battles.a, battles.b)
        loser = np.where(battles.outcome > 0, battles.b, battles.a)
        decided = battles.outcome != 0
        wins = np.bincount(winner[decided], minlength=count)
        rate = wins / np.maximum(wins + np.bincount(loser[decided], minlength=count), 1)
        upset = decided & (rate[winner] < rate[loser])
        self._won = [np.unique(battles.prompt[decided & (winner == k)]) for k in range(count)]
        self._lost = [np.unique(battles.prompt[decided & (loser == k)]) for k in range(count)]
        self._hard = [np.unique(battles.prompt[upset & (loser == k)]) for k in range(count)]
        self.models = [k for k in range(count) if len(self._won[k]) > 1 and len(self._lost[k])]

    def draw(self, rng: np.random.Generator) -> IntArray:
        """Anchor, positive and negative prompts, shape (n, 3)."""
        chosen = rng.choice(self.models, _BATCH)
        return np.concatenate([self._triplets(k, int((chosen == k).sum()), rng) for k in self.models])

    def _triplets(self, k: int, n: int, rng: np.random.Generator) -> IntArray:
        won, lost, hard = self._won[k], self._lost[k], self._hard[k]
        anchor = rng.integers(0, len(won), n)
        positive = (anchor + rng.integers(1, len(won), n)) % len(won)
        negative = lost[rng.integers(0, len(lost), n)]
        if len(hard):
            negative = np.where(rng.random(n) < _HARD, hard[rng.integers(0, len(hard), n)], negative)
        return np.column_stack([won[anchor], won[positive], negative])


def second_phase(battles: Battles, contexts: FloatArray) -> FloatArray:
    """Directions θ_k of unit length, shape (K, p), for contexts of unit length (m, p).

    p(a wins) = e^cos_a ÷ (e^cos_a + e^cos_b), the logistic of the difference of cosines.
    """
    psi = contexts[battles.prompt]
    target = (battles.outcome + 1) / 2
    sides = np.eye(len(battles.models))[battles.a] - np.eye(len(battles.models))[battles.b]
    # A small common direction: cosines need a length, and no arm is preferred yet.
    theta = np.tile(unit(psi.mean(axis=0)), (len(battles.models), 1))
    step = _Adam(theta, _PHASE2_RATE)
    for _ in range(_PHASE2_STEPS):
        directions = unit(theta)
        margin = np.vecdot(psi, sides @ directions)
        error = (1 / (1 + np.exp(-margin)) - target) / len(battles)
        step.descend(_through_unit(sides.T @ (error[:, None] * psi), directions, theta))
    return unit(theta)


def margins(battles: Battles, contexts: FloatArray, theta: FloatArray) -> FloatArray:
    """Difference of the two cosines of every vote, shape (n,)."""
    found: FloatArray = np.vecdot(contexts[battles.prompt], theta[battles.a] - theta[battles.b])
    return found


def preference_accuracy(battles: Battles, contexts: FloatArray, theta: FloatArray) -> float:
    """Share of decided votes whose winner has the higher cosine; ½ where there are none."""
    found = accuracy(margins(battles, contexts, theta), battles.outcome)
    return 0.5 if found is None else found


def arm_accuracy(battles: Battles, contexts: FloatArray, theta: FloatArray) -> FloatArray:
    """`preference_accuracy` over the votes of each arm, shape (K,)."""
    mine = [(battles.a == k) | (battles.b == k) for k in range(len(battles.models))]
    return np.array([preference_accuracy(part(battles, own), contexts, theta) for own in mine])
