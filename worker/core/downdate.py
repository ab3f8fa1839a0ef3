"""Sherman–Morrison: what one more observation takes from an inverse.

It is the inner loop of learning, so it is written for few calls: a product of a column
with itself is twice as fast as `np.outer`, and exactly symmetric.
"""

from __future__ import annotations

import math

import numpy as np

from worker.core.verdict import FloatArray


def downdate(inverse: FloatArray, g: FloatArray, f: float) -> None:
    """`inverse` −= g gᵀ / f, in place; shapes (d, d) and (d,), f > 0."""
    column = (g / math.sqrt(f)).reshape(-1, 1)
    np.subtract(inverse, column.dot(column.T), inverse)
