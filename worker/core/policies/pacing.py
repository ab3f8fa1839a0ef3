"""The default policy: the knapsack's dual, re-solved on recent queries.

One price curve serves all users. Each reads it at the mean cost that the rest of
their window can afford and pays the price found there, so spending follows the
budget without a threshold that was fixed in advance.
"""

from __future__ import annotations

from bisect import bisect_left

from worker.core.draw import uniforms
from worker.core.policies.base import Choice, Sample, View, best_at
from worker.core.policies.curve import solve

_PURPOSE = b"pacing"


class Pacing:
    """argmax score − λ·cost, λ from the price curve at the affordable mean cost."""

    name = "pacing"

    def __init__(self) -> None:
        self._prices: list[float] = [0.0]
        self._falling: list[float] = [0.0]  # −mean cost: ascending, for bisect

    def plan(self, sample: Sample) -> None:
        """Re-solve the curve."""
        curve = solve(sample.score, sample.costs, sample.mean)
        self._prices = curve.prices.tolist()
        self._falling = (-curve.costs).tolist()

    def choose(self, view: View) -> Choice:
        """The best eligible arm at the user's price of a dollar."""
        price = 0.0 if view.account is None else self.price(view.affordable_usd(), view.query_id)
        return best_at(price, view)

    def price(self, affordable_usd: float, query_id: str) -> float:
        """λ at a mean cost a query. Between two prices of the curve a hash of the query draws one of
        them, so that the mean is met even where all queries look the same.
        """
        falling = self._falling
        index = bisect_left(falling, -affordable_usd)
        if index == 0:
            return self._prices[0]
        if index == len(falling):
            return self._prices[-1]
        dear, cheap = -falling[index - 1], -falling[index]
        lower_price = uniforms(query_id, _PURPOSE)[0] * (dear - cheap) < affordable_usd - cheap
        return self._prices[index - 1 if lower_price else index]
