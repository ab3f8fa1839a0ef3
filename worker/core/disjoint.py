"""Disjoint LinUCB, the reward model of the paper: every arm learns alone.

A_k = λ_k I + Σψψᵀ and b_k = λ_k θ_k⁰ + Σrψ (PILOT, arXiv 2508.21141, Algorithm 1):
the prior of an arm is N(θ_k⁰, (λ_k I)⁻¹), its posterior N(A_k⁻¹ b_k, A_k⁻¹).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worker.core.downdate import downdate
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

_TINY = 1e-12  # a coefficient vector of length zero has no direction: its cosine is 0


class DisjointArms:
    """K independent ridge regressions with a prior mean each.

    Args:
        arms: K.
        dimension: d of the context.
        ridge: λ_k, one for all arms or of shape (K,).
        means: θ⁰ of shape (K, d), zeros if None.
        cosine: score cos(ψ̂, θ̃) as in the paper in place of ψ·θ̃.
    """

    def __init__(
        self,
        arms: int,
        dimension: int,
        ridge: float | FloatArray = 1.0,
        means: FloatArray | None = None,
        *,
        cosine: bool = False,
    ) -> None:
        self.arms = arms
        self.dimension = dimension
        self._ridge = np.broadcast_to(np.asarray(ridge, dtype=np.float64), (arms,))
        self._means = np.zeros((arms, dimension)) if means is None else means
        self._cosine = cosine
        self._solve(np.zeros((arms, dimension, dimension)), np.zeros((arms, dimension)))

    def refresh(self, sums: Sequence[Moments]) -> None:
        """Solve exactly from the sums of each arm.

        Raises:
            ValueError: another number of sums than arms.
        """
        if len(sums) != self.arms:
            raise ValueError(f"{len(sums)} sums for {self.arms} arms")
        A = np.array([moments.A for moments in sums]).reshape(self.arms, self.dimension, self.dimension)
        b = np.array([moments.b for moments in sums]).reshape(self.arms, self.dimension)
        self._solve(A, b)

    def _solve(self, A: FloatArray, b: FloatArray) -> None:
        inverse = np.linalg.inv(A + self._ridge[:, None, None] * np.eye(self.dimension))
        self._inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
        self._theta = np.einsum("kij,kj->ki", self._inverse, b + self._ridge[:, None] * self._means)
        self._flat = self._inverse.reshape(self.arms * self.dimension, self.dimension)

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected reward (or cosine) and √(ψᵀA⁻¹ψ), each of shape (K,)."""
        g = self._flat.dot(x).reshape(self.arms, self.dimension)
        mean = self._theta.dot(x)
        if self._cosine:
            mean = mean / self._lengths(float(np.sqrt(x.dot(x))))
        return mean, np.sqrt(g.dot(x))

    def deviation(self, x: FloatArray) -> FloatArray:
        """√(ψᵀA⁻¹ψ) alone, shape (K,)."""
        deviation: FloatArray = np.sqrt(self._flat.dot(x).reshape(self.arms, self.dimension).dot(x))
        return deviation

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`score` for contexts of shape (n, d): two arrays of shape (n, K)."""
        return self.expect_many(X), np.sqrt(np.vecdot(X @ self._inverse, X).T)

    def expect_many(self, X: FloatArray) -> FloatArray:
        """The expected rewards (or cosines) alone, for contexts of shape (n, d): shape (n, K)."""
        mean: FloatArray = X @ self._theta.T
        if self._cosine:
            mean = mean / self._lengths(np.linalg.norm(X, axis=1)[:, None])
        return mean

    def _lengths(self, x_length: float | FloatArray) -> FloatArray:
        lengths: FloatArray = np.maximum(np.linalg.norm(self._theta, axis=1) * x_length, _TINY)
        return lengths

    def learn(self, k: int, x: FloatArray, r: float) -> None:
        """Learn reward r of arm k in context x of shape (d,) by Sherman–Morrison."""
        inverse = self._inverse[k]
        g = inverse.dot(x)
        f = 1.0 + float(x.dot(g))
        theta = self._theta[k]
        theta += g * ((r - float(x.dot(theta))) / f)
        downdate(inverse, g, f)

    @property
    def coefficients(self) -> FloatArray:
        """θ̃ of every arm, shape (K, d)."""
        theta: FloatArray = self._theta.copy()
        return theta
