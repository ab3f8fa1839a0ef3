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
    """Observations of a batch sorted by arm, each arm's padded with zeros to the longest: one operation serves all.

    `arms` are the t arms that occur, `counts` how often, shape (t,). A row of zeros observes nothing.
    """

    def __init__(self, arms: Sequence[int]) -> None:
        found: dict[int, int] = {}
        counts: list[int] = []
        self.places: list[int] = []
        self._ranks: list[int] = []
        for arm in arms:
            group = found.setdefault(arm, len(found))
            if group == len(counts):
                counts.append(0)
            self.places.append(group)
            self._ranks.append(counts[group])
            counts[group] += 1
        self.arms = list(found)
        self.counts = counts

    def padded(self, values: FloatArray) -> FloatArray:
        """Values of the n observations, shape (n, ...), by arm: (t, m, ...)."""
        laid_out = np.zeros((len(self.arms), max(self.counts), *values.shape[1:]))
        laid_out[self.places, self._ranks] = values
        return laid_out


def downdate_many(
    inverses: FloatArray, X: FloatArray, errors: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray]:
    """Observations X with these prediction errors and this noise, for t arms at once, by Woodbury's identity.

    Args:
        inverses: A⁻¹ of each arm, shape (t, d, d), changed in place to (A + XᵀX/noise)⁻¹.
        X: rows by arm, shape (t, m, d).
        errors: e = y − Xθ, shape (t, m).
        noise: variance of an observation.

    Returns:
        What is added to θ, shape (t, d), and eᵀ(I + XA⁻¹Xᵀ/noise)⁻¹e, shape (t,).
    """
    _, rows, dimension = X.shape
    G = X @ inverses
    S = G @ X.transpose(0, 2, 1)
    S.reshape(len(S), -1)[:, :: rows + 1] += noise
    solved = np.linalg.solve(S, np.concatenate([G, errors[:, :, None]], axis=2))
    gains, weighted = solved[:, :, :dimension], solved[:, :, dimension]
    inverses -= G.transpose(0, 2, 1) @ gains
    return np.vecmat(errors, gains), noise * np.vecdot(errors, weighted)
