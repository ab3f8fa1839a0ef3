"""Least cost at a quality: the highest price of a dollar that still keeps the promised share of it.

The promise is about expected quality on recent queries. A user's budget stays a hard
limit: it decides which arms are eligible, whatever the floor.
"""

from __future__ import annotations

import numpy as np

from worker.core.draw import uniforms
from worker.core.policies.base import Choice, Sample, View, best_at
from worker.core.policies.curve import solve

MARGIN = 0.0025  # of quality: predictions favour what is chosen by them, so the realised mean may fall short
_PURPOSE = b"floor"


class Floor:
    """argmax score − λ·cost at the largest λ whose expected quality is at least `share` of the best arm's.

    Args:
        share: τ, 0 to 1, of the best single arm's mean expected reward.
    """

    name = "floor"

    def __init__(self, share: float) -> None:
        self._share = min(share + MARGIN, 1.0)
        self._kept = self._above = 0.0
        self._risk = 0.0

    def plan(self, sample: Sample) -> None:
        """Re-solve the curve: the last price that meets the target, and how often the next one may be paid.

        Between two prices of the grid quality falls by a point and more, which costs a
        third of the money; mixing the two meets the target in the mean.
        """
        curve = solve(sample.score, sample.costs, sample.mean)
        target = self._share * float(sample.mean.mean(axis=0).max())
        enough = np.flatnonzero(curve.rewards >= target)
        last = int(enough[-1]) if len(enough) else 0
        after = min(last + 1, len(curve.prices) - 1)
        self._kept, self._above = float(curve.prices[last]), float(curve.prices[after])
        spare, lost = curve.rewards[last] - target, curve.rewards[last] - curve.rewards[after]
        self._risk = float(spare / lost) if len(enough) and lost > 0 else 0.0

    def choose(self, view: View) -> Choice:
        """The best eligible arm at the price of the floor; a hash of the query draws one of the two prices."""
        price = self._above if uniforms(view.query_id, _PURPOSE)[0] < self._risk else self._kept
        return best_at(price, view)
