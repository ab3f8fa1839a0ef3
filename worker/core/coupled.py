"""Coupled linear arms: θ_k = μ + δ_k, one part that all arms share and one of each arm's own.

The data stay per-arm sums, only the solve couples them, exactly, by block elimination of δ.
S_d and S_s are the prior variances of the own and of the shared part, both diagonal:

    N_k = (S_d⁻¹ + A_k/σ²)⁻¹     u_k = N_k b_k/σ²     Q = S_s⁻¹ + Σ_k (S_d⁻¹ − S_d⁻¹ N_k S_d⁻¹)
    R = S_d⁻¹ Q⁻¹ S_d⁻¹           ν = R (S_d S_s⁻¹ m + Σ_k u_k) = S_d⁻¹ μ̂
    θ_k = u_k + N_k ν             Cov_k = N_k + N_k R N_k

The solve itself is whitened by S_d, so its matrices are near the identity. An arm without
data has N_k = S_d and u_k = 0: it starts at the arms' mean, wide.

Decisions whose feedback is still outstanding narrow the deviation and leave the mean
alone: without them a router asks the same uncertain arm until the first answers come.
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
    The `tasks` coordinates from `task_first` on, indicators of the caller's labels, have
    their own too: a label tells models apart and hardly anything else does, so one variance
    for all would believe too little in the label and too much in the rest.
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


class _Uncertainty:
    """N_k of every arm and R."""

    def __init__(self, evidence: FloatArray, own: FloatArray, ratio: FloatArray) -> None:
        """Invert; `evidence` is A_k/σ² of shape (K, d, d), `own` the diagonal of S_d, `ratio` that of S_d/S_s."""
        root = np.sqrt(own)
        self._ratio, self._whitening = np.diag(ratio), root[:, None] * root
        inverse = np.linalg.inv(np.eye(len(own)) + evidence * self._whitening)
        self._keep((inverse + inverse.transpose(0, 2, 1)) / 2 * self._whitening)
        self.couple()

    def _keep(self, N: FloatArray) -> None:
        self.N = N
        # The same memory as two dimensions: one matrix-vector product for all arms.
        self.flat = N.reshape(-1, N.shape[2])
        # Buffers of `add`, and views of them: slicing takes as long as arithmetic here.
        d = N.shape[2]
        self._rows, blocks, self._products = np.empty((2, d)), np.zeros((2, 2 * d)), np.empty((2 * d, d))
        self._blocks, self._scaled = blocks.T, (blocks[0, :d], blocks[1, d:])
        self._g, self._v = self._rows
        self._halves = self._products[:d], self._products[d:]

    def couple(self) -> None:
        """R from the N_k."""
        identity = np.eye(len(self._ratio))
        inverse = np.linalg.inv(self._ratio + len(self.N) * identity - self.N.sum(axis=0) / self._whitening)
        self.R: FloatArray = (inverse + inverse.T) / 2 / self._whitening
        self._covariance: FloatArray | None = None

    def copy(self) -> _Uncertainty:
        twin = object.__new__(_Uncertainty)
        twin._ratio, twin._whitening = self._ratio, self._whitening
        twin._keep(self.N.copy())
        twin.R, twin._covariance = self.R.copy(), self._covariance
        return twin

    def add(self, k: int, x: FloatArray, noise: float) -> tuple[FloatArray, float]:
        """N_k and R after one more row x of this noise, by Sherman–Morrison; returns g = N_k x and f = noise + xᵀg.

        N_k −= ggᵀ/f and R −= vvᵀ/(f + gᵀv), v = Rg: both outer products come from one product of
        block matrices, for calls cost more than arithmetic here. g lies in a buffer until the next call.
        """
        self._covariance = None
        N, R, g, v = self.N[k], self.R, self._g, self._v
        N.dot(x, g)
        f = noise + float(x.dot(g))
        R.dot(g, v)
        g_scaled, v_scaled = self._scaled
        np.divide(g, f, g_scaled)
        np.divide(v, f + float(g.dot(v)), v_scaled)
        self._blocks.dot(self._rows, self._products)
        g_product, v_product = self._halves
        np.subtract(N, g_product, N)
        np.subtract(R, v_product, R)
        return g, f

    def variance(self, g: FloatArray, x: FloatArray) -> FloatArray:
        """xᵀCov_k x of shape (K,), from the rows g_k = N_k x."""
        variance: FloatArray = np.vecdot(g.dot(self.R), g)
        variance += g.dot(x)
        return variance

    def covariance(self) -> FloatArray:
        """Cov_k of shape (K, d, d); kept until the next observation."""
        if self._covariance is None:
            self._covariance = self.N + self.N @ self.R @ self.N
        return self._covariance


class CoupledArms:
    """The default reward model: Bayesian linear arms that learn from each other."""

    def __init__(self, arms: int, dimension: int, hyper: Hyper | None = None) -> None:
        self.arms = arms
        self.dimension = dimension
        self.hyper = hyper or Hyper()
        self._own = self.hyper.own(dimension)
        self._ratio = self._own / self.hyper.shared(dimension)
        self._anchor = self._ratio * self.hyper.mean(dimension)
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
            self._spread = self._uncertainty(A + np.array(outstanding))

    def _uncertainty(self, A: FloatArray) -> _Uncertainty:
        return _Uncertainty(A / self.hyper.sigma2, self._own, self._ratio)

    def _solve(self, A: FloatArray, b: FloatArray) -> None:
        self._settled = self._uncertainty(A)
        # With nothing open the deviation reads the same matrices.
        self._spread = self._settled
        self._u = np.einsum("kij,kj->ki", self._settled.N, b / self.hyper.sigma2)
        self._pull = self._anchor + self._u.sum(axis=0)
        self._couple()

    def _couple(self) -> None:
        self._nu = self._settled.R.dot(self._pull)
        self._theta: FloatArray | None = None

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected reward and its standard deviation, each of shape (K,)."""
        # The method `dot` costs half of what `@` does on arrays this small.
        g = self._settled.flat.dot(x).reshape(self.arms, self.dimension)
        mean = self._u.dot(x)
        mean += g.dot(self._nu)
        if self._spread is not self._settled:
            return mean, self.deviation(x)
        variance = self._spread.variance(g, x)
        return mean, np.sqrt(variance, variance)

    def deviation(self, x: FloatArray) -> FloatArray:
        """The standard deviation alone, shape (K,)."""
        g = self._spread.flat.dot(x).reshape(self.arms, self.dimension)
        variance = self._spread.variance(g, x)
        return np.sqrt(variance, variance)

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`score` for contexts of shape (n, d): two arrays of shape (n, K)."""
        G = X.dot(self._spread.covariance().reshape(-1, self.dimension).T)
        variance = np.vecdot(G.reshape(len(X), self.arms, self.dimension), X[:, None, :])
        return self.expect_many(X), np.sqrt(variance)

    def expect_many(self, X: FloatArray) -> FloatArray:
        """The expected rewards alone, for contexts of shape (n, d): shape (n, K)."""
        mean: FloatArray = X.dot(self.coefficients.T)
        return mean

    def learn(self, k: int, x: FloatArray, r: float, opened: float = 0.0) -> None:
        """Learn reward r of arm k in context x of shape (d,): rank-one, no solve.

        `opened` is the weight with which this decision was opened before.
        """
        u = self._u[k]
        error = r - float(x.dot(u))
        if self._spread is not self._settled and opened < 1.0:
            self._spread.add(k, x, self.hyper.sigma2 / (1.0 - opened))
        g, f = self._settled.add(k, x, self.hyper.sigma2)
        step = g * (error / f)
        u += step
        self._pull += step
        self._couple()

    def open(self, k: int, x: FloatArray, weight: float = 1.0) -> None:
        """Narrow the deviation by a decision for arm k whose reward is to come.

        `weight`, above 0, is how many such rewards are expected; `refresh` forgets what was opened.
        """
        if self._spread is self._settled:
            self._spread = self._settled.copy()
        self._spread.add(k, x, self.hyper.sigma2 / weight)

    @property
    def coefficients(self) -> FloatArray:
        """θ̂ of every arm, shape (K, d); kept until the next observation."""
        if self._theta is None:
            self._theta = self._u + self._settled.N @ self._nu
        return self._theta
