"""Least cost at a quality: the highest price of a dollar that still keeps the promised share of it.

The promise is about expected quality on recent queries. A user's budget stays a hard
limit: it decides which arms are eligible, whatever the floor.
"""

from __future__ import annotations

import numpy as np

from worker.core.policies.base import Choice, Sample, View, best
from worker.core.policies.curve import solve

MARGIN = 0.01  # of quality: predictions favour what is chosen by them, so the realised mean falls short


class Floor:
    """argmax score − λ·cost at the largest λ whose expected quality is at least `share` of the best arm's.

    Args:
        share: τ, 0 to 1, of the best single arm's mean expected reward.
    """

    name = "floor"

    def __init__(self, share: float) -> None:
        self._share = min(share + MARGIN, 1.0)
        self._price = 0.0

    def plan(self, sample: Sample) -> None:
        """Re-solve the curve and read it at the target."""
        curve = solve(sample.score, sample.costs, sample.mean)
        target = self._share * float(sample.mean.mean(axis=0).max())
        enough = np.flatnonzero(curve.rewards >= target)
        self._price = float(curve.prices[enough[-1]]) if len(enough) else 0.0

    def choose(self, view: View) -> Choice:
        """The best eligible arm at the price of the floor."""
        return Choice(best(view.score - self._price * view.costs, view.eligible), self._price)
