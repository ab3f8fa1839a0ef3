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
_EXPONENTS = np.linspace(0.0, 1.0, STEPS)
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
    count, arms = score.shape
    cost_changes, reward_changes = np.zeros(len(prices) + 1), np.zeros(len(prices) + 1)
    cell = np.arange(count) * arms + score.argmax(axis=1)
    cost, reward = costs.take(cell), rewards.take(cell)
    cost_changes[0], reward_changes[0] = cost.sum(), reward.sum()
    rows = np.arange(count)  # queries that may still move
    for _ in range(arms - 1):
        saved = cost[:, None] - costs.take(rows, axis=0)
        lost = score.take(cell)[:, None] - score.take(rows, axis=0)
        # A dearer arm has a negative price, an equal one an infinite one: neither is cheaper.
        price = np.where(saved > 0, lost, np.inf) / np.where(saved > 0, saved, 1.0)
        to = price.argmin(axis=1)
        at = price.take(np.arange(len(rows)) * arms + to)
        moving = np.flatnonzero(at < np.inf)
        if not len(moving):
            break
        rows = rows[moving]
        cell = rows * arms + to[moving]
        after_cost, after_reward = costs.take(cell), rewards.take(cell)
        just_after = np.searchsorted(prices, at[moving], side="right")
        cost_changes += np.bincount(just_after, after_cost - cost[moving], len(cost_changes))
        reward_changes += np.bincount(just_after, after_reward - reward[moving], len(reward_changes))
        cost, reward = after_cost, after_reward
    return Curve(prices, np.cumsum(cost_changes)[:-1] / count, np.cumsum(reward_changes)[:-1] / count)


def _grid(mean_costs: FloatArray) -> FloatArray:
    paid = mean_costs[mean_costs > _FREE_USD]
    cheapest, dearest = (paid.min(), paid.max()) if len(paid) else (_FREE_USD, _FREE_USD)
    lowest, highest = _LOWEST / dearest, _HIGHEST / cheapest
    return np.concatenate(([0.0], lowest * (highest / lowest) ** _EXPONENTS))
