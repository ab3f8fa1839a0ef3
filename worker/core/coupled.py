"""Coupled linear arms: θ_k = μ + δ_k, one part that all arms share and one of each arm's own.

The data stay per-arm sums, only the solve couples them, exactly, by block elimination
of δ. All inner quantities are whitened with the own-part variances (x' = S_d^½ x), so
the prior precision of δ is the identity:

    M_k = I + A_k/σ²       u_k = M_k⁻¹ b_k/σ²      Q = S_d/S_s + Σ_k (I − M_k⁻¹)
    μ = Q⁻¹ (S_d/S_s·m + Σ_k u_k)     θ_k = u_k + M_k⁻¹ μ     Cov_k = M_k⁻¹ + M_k⁻¹ Q⁻¹ M_k⁻¹

An arm without data has M_k = I and u_k = 0: it starts at the arms' mean, wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.core.statistics import Moments
from worker.core.verdict import FloatArray


@dataclass(frozen=True, slots=True)
class Hyper:
    """Prior variances of a context coordinate (own τ_d², shared τ_s²) and noise variance σ².

    The intercept, always the last coordinate, has wide variances of its own: with narrow
    ones a cold router never tries the strong arm. `m` is the prior mean of its shared part.
    """

    tau_d2: float = 0.01
    tau_s2: float = 0.03
    sigma2: float = 0.2
    intercept_d2: float = 1.0
    intercept_s2: float = 1.0
    m: float = 0.6

    def own(self, dimension: int) -> FloatArray:
        """The diagonal of S_d, shape (dimension,)."""
        return _diagonal(dimension, self.tau_d2, self.intercept_d2)

    def shared(self, dimension: int) -> FloatArray:
        """The diagonal of S_s, shape (dimension,)."""
        return _diagonal(dimension, self.tau_s2, self.intercept_s2)

    def mean(self, dimension: int) -> FloatArray:
        """The prior mean of μ, shape (dimension,)."""
        return _diagonal(dimension, 0.0, self.m)


def _diagonal(dimension: int, context: float, intercept: float) -> FloatArray:
    values = np.full(dimension, context)
    values[-1] = intercept
    return values


class CoupledArms:
    """The default reward model: Bayesian linear arms that learn from each other."""

    def __init__(self, arms: int, dimension: int, hyper: Hyper | None = None) -> None:
        self.arms = arms
        self.dimension = dimension
        self.hyper = hyper or Hyper()
        own = self.hyper.own(dimension)
        self._scale = np.sqrt(own)
        self._ratio = own / self.hyper.shared(dimension)
        self._anchor = self._ratio * self.hyper.mean(dimension) / self._scale
        self._solve(np.zeros((arms, dimension, dimension)), np.zeros((arms, dimension)))

    def refresh(self, sums: Sequence[Moments]) -> None:
        """Solve exactly from the sums of each arm, prior data included.

        Raises:
            ValueError: another number of sums than arms.
        """
        if len(sums) != self.arms:
            raise ValueError(f"{len(sums)} sums for {self.arms} arms")
        A = np.array([moments.A for moments in sums]).reshape(self.arms, self.dimension, self.dimension)
        b = np.array([moments.b for moments in sums]).reshape(self.arms, self.dimension)
        self._solve(A, b)

    def _solve(self, A: FloatArray, b: FloatArray) -> None:
        identity = np.eye(self.dimension)
        whitened = A * (self._scale[:, None] * self._scale / self.hyper.sigma2)
        inverse = np.linalg.inv(identity + whitened)
        self._m_inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
        self._u = np.einsum("kij,kj->ki", self._m_inverse, b * (self._scale / self.hyper.sigma2))
        q_inverse = np.linalg.inv(np.diag(self._ratio) + (identity - self._m_inverse).sum(axis=0))
        self._q_inverse = (q_inverse + q_inverse.T) / 2
        self._pull = self._anchor + self._u.sum(axis=0)
        self._mu = self._q_inverse @ self._pull
        # The same memory as two dimensions: one matrix-vector product for all arms.
        self._flat = self._m_inverse.reshape(self.arms * self.dimension, self.dimension)

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected reward and its standard deviation, each of shape (K,)."""
        z = x * self._scale
        # The method `dot` costs half of what `@` does on arrays this small.
        g = self._flat.dot(z).reshape(self.arms, self.dimension)
        mean = self._u.dot(z) + g.dot(self._mu)
        variance = g.dot(z) + np.vecdot(g.dot(self._q_inverse), g)
        return mean, np.sqrt(variance)

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`score` for contexts of shape (n, d): two arrays of shape (n, K)."""
        Z = X * self._scale
        covariance = self._m_inverse + self._m_inverse @ self._q_inverse @ self._m_inverse
        theta = self._u + self._m_inverse @ self._mu
        variance = np.vecdot(Z @ covariance, Z)
        return Z @ theta.T, np.sqrt(variance.T)

    def learn(self, k: int, x: FloatArray, r: float) -> None:
        """Learn reward r of arm k in context x of shape (d,): rank-one, no solve."""
        z = x * self._scale
        inverse, u = self._m_inverse[k], self._u[k]
        g = inverse.dot(z)
        f = self.hyper.sigma2 + z.dot(g)
        step = g * ((r - z.dot(u)) / f)
        inverse -= np.outer(g, g / f)
        u += step
        self._pull += step
        v = self._q_inverse.dot(g)
        self._q_inverse -= np.outer(v, v / (f + g.dot(v)))
        self._mu = self._q_inverse.dot(self._pull)

    @property
    def coefficients(self) -> FloatArray:
        """θ̂ of every arm in the coordinates of the context, shape (K, d)."""
        theta: FloatArray = (self._u + self._m_inverse @ self._mu) * self._scale
        return theta
