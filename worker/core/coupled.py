"""Coupled linear arms: θ_k = μ + δ_k, one part that all arms share and one of each arm's own.

The data stay per-arm sums, only the solve couples them, exactly, by block elimination
of δ. All inner quantities are whitened with the own-part variances (x' = S_d^½ x), so
the prior precision of δ is the identity:

    M_k = I + A_k/σ²       u_k = M_k⁻¹ b_k/σ²      Q = S_d/S_s + Σ_k (I − M_k⁻¹)
    μ = Q⁻¹ (S_d/S_s·m + Σ_k u_k)     θ_k = u_k + M_k⁻¹ μ     Cov_k = M_k⁻¹ + M_k⁻¹ Q⁻¹ M_k⁻¹

An arm without data has M_k = I and u_k = 0: it starts at the arms' mean, wide.

Decisions whose feedback is still outstanding narrow the deviation and leave the mean
alone: without them a router asks the same uncertain arm until the first answers come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.core.downdate import downdate
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray


@dataclass(frozen=True, slots=True)
class Hyper:
    """Prior variances of a context coordinate (own τ_d², shared τ_s²) and noise variance σ².

    The intercept, always the last coordinate, has wide variances of its own: with narrow
    ones a cold router never tries the strong arm. `m` is the prior mean of its shared part.
    So have the `tasks` coordinates from `task_first` on, the indicators of the caller's
    labels: a label tells models apart, hardly anything else does, and one variance for all would
    believe too little in the label and too much in the rest.
    """

    tau_d2: float = 0.01
    tau_s2: float = 0.03
    sigma2: float = 0.2
    intercept_d2: float = 1.0
    intercept_s2: float = 1.0
    m: float = 0.6
    task_d2: float = 0.01
    task_s2: float = 0.03
    task_first: int = 0
    tasks: int = 0

    def own(self, dimension: int) -> FloatArray:
        """The diagonal of S_d, shape (dimension,)."""
        return self._diagonal(dimension, self.tau_d2, self.task_d2, self.intercept_d2)

    def shared(self, dimension: int) -> FloatArray:
        """The diagonal of S_s, shape (dimension,)."""
        return self._diagonal(dimension, self.tau_s2, self.task_s2, self.intercept_s2)

    def mean(self, dimension: int) -> FloatArray:
        """The prior mean of μ, shape (dimension,)."""
        return self._diagonal(dimension, 0.0, 0.0, self.m)

    def _diagonal(self, dimension: int, context: float, task: float, intercept: float) -> FloatArray:
        values = np.full(dimension, context)
        values[self.task_first : self.task_first + self.tasks] = task
        values[-1] = intercept
        return values


class _Precision:
    """M_k⁻¹ of every arm and Q⁻¹, in whitened coordinates."""

    def __init__(self, evidence: FloatArray, ratio: FloatArray) -> None:
        """Invert; `evidence` is A_k/σ² of shape (K, d, d), `ratio` the diagonal of S_d/S_s."""
        identity = np.eye(len(ratio))
        inverse = np.linalg.inv(identity + evidence)
        self.m_inverse: FloatArray = (inverse + inverse.transpose(0, 2, 1)) / 2
        q_inverse = np.linalg.inv(np.diag(ratio) + (identity - self.m_inverse).sum(axis=0))
        self.q_inverse: FloatArray = (q_inverse + q_inverse.T) / 2
        # The same memory as two dimensions: one matrix-vector product for all arms.
        self.flat = self.m_inverse.reshape(-1, len(ratio))

    def copy(self) -> _Precision:
        twin = object.__new__(_Precision)
        twin.m_inverse, twin.q_inverse = self.m_inverse.copy(), self.q_inverse.copy()
        twin.flat = twin.m_inverse.reshape(self.flat.shape)
        return twin

    def add(self, k: int, z: FloatArray, noise: float) -> tuple[FloatArray, float]:
        """M_k += zzᵀ/noise by rank-one updates; returns g = M_k⁻¹z and f = noise + zᵀg of before."""
        inverse = self.m_inverse[k]
        g = inverse.dot(z)
        f = noise + float(z.dot(g))
        downdate(inverse, g, f)
        v = self.q_inverse.dot(g)
        downdate(self.q_inverse, v, f + float(g.dot(v)))
        return g, f

    def variance(self, g: FloatArray, z: FloatArray) -> FloatArray:
        """zᵀCov_k z of shape (K,), from the rows g_k = M_k⁻¹z."""
        variance: FloatArray = np.vecdot(g.dot(self.q_inverse) + z, g)
        return variance

    def covariance(self) -> FloatArray:
        """Cov_k of shape (K, d, d)."""
        covariance: FloatArray = self.m_inverse + self.m_inverse @ self.q_inverse @ self.m_inverse
        return covariance


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

    def refresh(self, sums: Sequence[Moments], outstanding: Sequence[FloatArray] = ()) -> None:
        """Solve exactly from the sums of each arm, prior data included.

        `outstanding` are Σ w ψψᵀ of each arm's open decisions, K arrays of shape (d, d).

        Raises:
            ValueError: another number of sums than arms.
        """
        if len(sums) != self.arms:
            raise ValueError(f"{len(sums)} sums for {self.arms} arms")
        A = np.array([moments.A for moments in sums]).reshape(self.arms, self.dimension, self.dimension)
        b = np.array([moments.b for moments in sums]).reshape(self.arms, self.dimension)
        self._solve(A, b)
        if outstanding:
            self._spread = self._precision(A + np.array(outstanding))

    def _precision(self, A: FloatArray) -> _Precision:
        return _Precision(A * (self._scale[:, None] * self._scale / self.hyper.sigma2), self._ratio)

    def _solve(self, A: FloatArray, b: FloatArray) -> None:
        self._settled = self._precision(A)
        # With nothing open the deviation reads the same matrices.
        self._spread = self._settled
        self._u = np.einsum("kij,kj->ki", self._settled.m_inverse, b * (self._scale / self.hyper.sigma2))
        self._pull = self._anchor + self._u.sum(axis=0)
        self._mu = self._settled.q_inverse @ self._pull

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected reward and its standard deviation, each of shape (K,)."""
        z = x * self._scale
        # The method `dot` costs half of what `@` does on arrays this small.
        g = self._settled.flat.dot(z).reshape(self.arms, self.dimension)
        mean = self._u.dot(z) + g.dot(self._mu)
        if self._spread is not self._settled:
            g = self._spread.flat.dot(z).reshape(self.arms, self.dimension)
        return mean, np.sqrt(self._spread.variance(g, z))

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`score` for contexts of shape (n, d): two arrays of shape (n, K)."""
        Z = X * self._scale
        theta = self._u + self._settled.m_inverse @ self._mu
        variance = np.vecdot(Z @ self._spread.covariance(), Z)
        return Z @ theta.T, np.sqrt(variance.T)

    def learn(self, k: int, x: FloatArray, r: float, opened: float = 0.0) -> None:
        """Learn reward r of arm k in context x of shape (d,): rank-one, no solve.

        `opened` is the weight with which this decision was opened before.
        """
        z = x * self._scale
        u = self._u[k]
        error = r - float(z.dot(u))
        if self._spread is not self._settled and opened < 1.0:
            self._spread.add(k, z, self.hyper.sigma2 / (1.0 - opened))
        g, f = self._settled.add(k, z, self.hyper.sigma2)
        step = g * (error / f)
        u += step
        self._pull += step
        self._mu = self._settled.q_inverse.dot(self._pull)

    def open(self, k: int, x: FloatArray, weight: float = 1.0) -> None:
        """Narrow the deviation by a decision for arm k whose reward is to come.

        `weight`, above 0, is the probability that it comes; `refresh` forgets what was opened.
        """
        if self._spread is self._settled:
            self._spread = self._settled.copy()
        self._spread.add(k, x * self._scale, self.hyper.sigma2 / weight)

    @property
    def coefficients(self) -> FloatArray:
        """θ̂ of every arm in the coordinates of the context, shape (K, d)."""
        theta: FloatArray = (self._u + self._settled.m_inverse @ self._mu) * self._scale
        return theta
