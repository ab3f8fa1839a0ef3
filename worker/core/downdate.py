"""Sherman–Morrison and Woodbury: what one more observation, or several, take from an inverse.

It is the inner loop of learning, so it is written for few calls: a product of a column
with itself is twice as fast as `np.outer`, and exactly symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from worker.core.verdict import FloatArray


def downdate(inverse: FloatArray, g: FloatArray, f: float) -> None:
    """`inverse` −= g gᵀ / f, in place; shapes (d, d) and (d,), f > 0."""
    column = (g / math.sqrt(f)).reshape(-1, 1)
    np.subtract(inverse, column.dot(column.T), inverse)


class Groups:
    """n observations sorted by arm, each of the K arms padded with zeros to the longest: one operation serves all.

    `arms` has shape (n,), `counts` (K,). A row of zeros observes nothing.
    """

    def __init__(self, arms: Sequence[int], count: int) -> None:
        self.arms = arms
        self.counts = [0] * count
        self._places: list[int] = []
        for arm in arms:
            self._places.append(self.counts[arm])
            self.counts[arm] += 1

    def padded(self, values: FloatArray) -> FloatArray:
        """Values of the observations, shape (n, ...), by arm: (K, m, ...)."""
        laid_out = np.zeros((len(self.counts), max(self.counts), *values.shape[1:]))
        laid_out[self.arms, self._places] = values
        return laid_out


def downdate_many(
    inverses: FloatArray, X: FloatArray, errors: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray]:
    """Observations X with these prediction errors and this noise, for K arms at once, by Woodbury's identity.

    Args:
        inverses: A⁻¹ of each arm, shape (K, d, d), changed in place to (A + XᵀX/noise)⁻¹.
        X: rows by arm, shape (K, m, d).
        errors: e = y − Xθ, shape (K, m).
        noise: variance of an observation.

    Returns:
        What is added to θ, shape (K, d), and eᵀ(I + XA⁻¹Xᵀ/noise)⁻¹e, shape (K,).
    """
    arms, rows, dimension = X.shape
    G = X @ inverses
    S = G @ X.transpose(0, 2, 1)
    S.reshape(arms, -1)[:, :: rows + 1] += noise
    solved = np.linalg.solve(S, np.concatenate([G, errors[:, :, None]], axis=2))
    gains, weighted = solved[:, :, :dimension], solved[:, :, dimension]
    inverses -= G.transpose(0, 2, 1) @ gains
    return np.vecmat(weighted, G), noise * np.vecdot(errors, weighted)
