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

    The running minimum makes the mean cost monotone where ties would not.
    """
    prices = _grid(costs.mean(axis=0))
    shape = (len(prices), len(score))
    top, cost, reward = np.full(shape, -np.inf), np.empty(shape), np.empty(shape)
    # Arm by arm over (prices, queries): faster than an argmax over a short last axis.
    for k in range(score.shape[1]):
        value = score[:, k] - prices[:, None] * costs[:, k]
        better = value > top
        np.copyto(top, value, where=better)
        np.copyto(cost, costs[:, k], where=better)
        np.copyto(reward, rewards[:, k], where=better)
    return Curve(prices, np.minimum.accumulate(cost.mean(axis=1)), reward.mean(axis=1))


def _grid(mean_costs: FloatArray) -> FloatArray:
    paid = mean_costs[mean_costs > _FREE_USD]
    cheapest, dearest = (paid.min(), paid.max()) if len(paid) else (_FREE_USD, _FREE_USD)
    steps = np.geomspace(_LOWEST / dearest, _HIGHEST / cheapest, STEPS)
    return np.concatenate(([0.0], steps))
