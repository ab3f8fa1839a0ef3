"""Hyper-parameters of the coupled arms by marginal likelihood of the sufficient statistics.

Maximises ln p(rewards | τ_d², τ_s², σ²) plus a log-normal hyper-prior (centres as in
`Hyper`, one e-fold of deviation). Task indicators have a τ_d² and a τ_s² of their own. The
intercept's variances stay as they are: evidence would narrow them, and a router that starts
narrow never tries the strong arm. Meant for priors with data; while a router without one
explores, the centres are the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from worker.core.coupled import Hyper
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

_REACH = np.log(300.0)  # bounds, to each side of the centre
_STEPS = 70  # for each dimension of the search
_TOLERANCE = 1e-4  # of the objective, in nats


def log_evidence(sums: Sequence[Moments], hyper: Hyper) -> float:
    """Log of p(all rewards | hyper), the arms' sums with prior data included, in nats.

    Whitened by S_d, with M_k = I + A_k/σ²: −n/2·ln 2πσ² − Σr²/2σ²
    + ½[Σ b_kᵀu_k/σ² + hᵀμ̂ − mᵀS_s⁻¹m] − ½[ln|S_s/S_d| + Σ ln|M_k| + ln|Q|].
    """
    return _evidence(*_stacked(sums), hyper)


def choose(sums: Sequence[Moments], start: Hyper | None = None) -> Hyper:
    """The most probable hyper-parameters for these sums; without any reward `start` itself.

    Takes tenths of a second: not for the event loop.
    """
    hyper = start or Hyper()
    if not any(moments.n for moments in sums):
        return hyper
    stacked = _stacked(sums)
    return maximise(lambda candidate: _evidence(*stacked, candidate), hyper)


def maximise(evidence: Callable[[Hyper], float], start: Hyper, names: Sequence[str] | None = None) -> Hyper:
    """The hyper-parameters of highest evidence + log hyper-prior; the intercept values of `start` are kept.

    `names` are those to search for, where the evidence does not depend on all.
    """
    chosen = names or _names(start)
    centres = _logs(Hyper(), chosen)

    def loss(point: FloatArray) -> float:
        bounded = np.clip(point, centres - _REACH, centres + _REACH)
        prior = -0.5 * float(((bounded - centres) ** 2).sum())
        # Outside the bounds the value goes on as at the edge, less the distance: a simplex finds its way back.
        return float(np.abs(point - bounded).sum()) - prior - evidence(_at(bounded, start, chosen))

    found = _minimum(loss, _logs(start, chosen))
    return _at(np.clip(found, centres - _REACH, centres + _REACH), start, chosen)


def _names(hyper: Hyper) -> Sequence[str]:
    """What is searched for: without task indicators their variances change nothing."""
    return ("tau_d2", "tau_s2", "sigma2", *(("task_d2", "task_s2") if hyper.tasks else ()))


def _logs(hyper: Hyper, names: Sequence[str]) -> FloatArray:
    return np.log([getattr(hyper, name) for name in names])


def _stacked(sums: Sequence[Moments]) -> tuple[FloatArray, FloatArray, int, float]:
    A, b = np.array([moments.A for moments in sums]), np.array([moments.b for moments in sums])
    return A, b, sum(moments.n for moments in sums), sum(moments.squares for moments in sums)


def _evidence(A: FloatArray, b: FloatArray, n: int, squares: float, hyper: Hyper) -> float:
    dimension, noise = b.shape[1], hyper.sigma2
    own, shared, m = hyper.own(dimension), hyper.shared(dimension), hyper.mean(dimension)
    scale = np.sqrt(own)
    M = np.eye(dimension) + A * (scale[:, None] * scale / noise)
    inverse = np.linalg.inv(M)
    whitened = b * scale / noise
    u = np.einsum("kij,kj->ki", inverse, whitened)
    Q = np.diag(own / shared) + (np.eye(dimension) - inverse).sum(axis=0)
    h = scale / shared * m + u.sum(axis=0)
    quadratic = float((whitened * u).sum() + h @ np.linalg.solve(Q, h) - m @ (m / shared))
    logs = float(np.log(shared / own).sum() + np.linalg.slogdet(M)[1].sum() + np.linalg.slogdet(Q)[1])
    return -0.5 * (n * math.log(2 * math.pi * noise) + squares / noise - quadratic + logs)


def _at(point: FloatArray, hyper: Hyper, names: Sequence[str]) -> Hyper:
    return replace(hyper, **dict(zip(names, np.exp(point).tolist(), strict=True)))


def _minimum(loss: Callable[[FloatArray], float], start: FloatArray) -> FloatArray:
    """Nelder–Mead: a few smooth dimensions need no gradient."""
    simplex = np.vstack([start, start + np.eye(len(start))])
    values = np.array([loss(point) for point in simplex])
    for _ in range(_STEPS * len(start)):
        order = values.argsort()
        simplex, values = simplex[order], values[order]
        if values[-1] - values[0] < _TOLERANCE:
            break
        _move(loss, simplex, values)
    best: FloatArray = simplex[values.argmin()]
    return best


def _move(loss: Callable[[FloatArray], float], simplex: FloatArray, values: FloatArray) -> None:
    """Replace the worst corner: reflect, then expand or contract, else shrink towards the best."""
    centre = simplex[:-1].mean(axis=0)
    away = centre - simplex[-1]
    reflected = loss(centre + away)
    factor = 2.0 if reflected < values[0] else 0.5 if reflected < values[-1] else -0.5
    candidates = [(reflected, 1.0)] if reflected < values[-2] else []
    if factor != 0.5 or not candidates:
        candidates.append((loss(centre + factor * away), factor))
    value, step = min(candidates)
    if value < values[-1]:
        simplex[-1], values[-1] = centre + step * away, value
        return
    simplex[1:] = (simplex[1:] + simplex[0]) / 2
    values[1:] = [loss(point) for point in simplex[1:]]
