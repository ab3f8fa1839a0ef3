"""The price curve: what a query costs on average when a dollar is worth λ of reward.

For each price λ of a grid every sampled query takes the arm with the highest
score − λ·cost; the mean cost falls as λ rises. Reading the curve backwards solves
the dual of the budget's knapsack for every user at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worker.core.verdict import FloatArray

STEPS = 60
_LOWEST = 2.5e-4  # λ·(dearest arm's cost) of the first price above 0: less than any difference of scores
_HIGHEST = 10.0  # λ·(cheapest arm's cost) of the last: no difference of scores, at most 1, outweighs it
_FREE_USD = 1e-9  # below the smallest amount of money: keeps the grid finite when an arm costs nothing


class Curve(NamedTuple):
    """Rising prices λ in reward per USD, and at each the mean cost in USD and the mean expected reward."""

    prices: FloatArray
    costs: FloatArray
    rewards: FloatArray


def solve(score: FloatArray, costs: FloatArray, rewards: FloatArray) -> Curve:
    """The curve of n queries and K arms, arrays of shape (n, K); `rewards` are averaged, `score` decides.

    As λ rises a query moves along the upper hull of its arms, each move to a cheaper one,
    so at most K − 1 moves of all queries at once replace a search at every price.
    """
    prices = _grid(costs.mean(axis=0))
    rows = np.arange(len(score))
    arm = score.argmax(axis=1)
    cost, reward = costs[rows, arm], rewards[rows, arm]
    falling, changing = _Steps(prices, cost.mean()), _Steps(prices, reward.mean())
    for _ in range(score.shape[1] - 1):
        saved, lost = cost[:, None] - costs, score[rows, arm][:, None] - score
        price = np.divide(lost, saved, out=np.full(score.shape, np.inf), where=saved > 0)
        arm = np.where(np.isfinite(price.min(axis=1)), price.argmin(axis=1), arm)
        moved = price[rows, arm]
        after_cost, after_reward = costs[rows, arm], rewards[rows, arm]
        if np.isinf(moved).all():
            break
        falling.add(moved, after_cost - cost)
        changing.add(moved, after_reward - reward)
        cost, reward = after_cost, after_reward
    return Curve(prices, falling.values(), changing.values())


class _Steps:
    """The mean of n step functions of λ, read at the prices of a grid."""

    def __init__(self, prices: FloatArray, start: float) -> None:
        self._prices = prices
        self._changes = np.zeros(len(prices) + 1)
        self._changes[0] = start

    def add(self, at: FloatArray, changes: FloatArray) -> None:
        """A change of each function just after a price, infinite for none; arrays of shape (n,)."""
        index = np.searchsorted(self._prices, at, side="right")
        self._changes += np.bincount(index, changes, len(self._changes)) / len(at)

    def values(self) -> FloatArray:
        """The mean at every price of the grid."""
        return np.cumsum(self._changes)[:-1]


def _grid(mean_costs: FloatArray) -> FloatArray:
    paid = mean_costs[mean_costs > _FREE_USD]
    cheapest, dearest = (paid.min(), paid.max()) if len(paid) else (_FREE_USD, _FREE_USD)
    steps = np.geomspace(_LOWEST / dearest, _HIGHEST / cheapest, STEPS)
    return np.concatenate(([0.0], steps))
