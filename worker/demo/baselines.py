"""What other ways of choosing would have cost and earned on the very same queries.

Arrays are rewards (n, K) and costs in USD (n, K) of the streamed queries in order of
time, and `user` (n,), the number of who asked. A rejected query earns 0 and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.verdict import FloatArray

IntArray = NDArray[np.int64]
REJECTED = -1
RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Reward and cost (n,) per query under one way of choosing, and how many queries were turned away."""

    name: str
    reward: FloatArray
    cost: FloatArray
    rejected: int = 0


def played(name: str, choice: IntArray, rewards: FloatArray, costs: FloatArray) -> Outcome:
    """The outcome of given choices (n,): a column, or `REJECTED`."""
    answered = choice != REJECTED
    column = np.where(answered, choice, 0)[:, None]
    reward = np.where(answered, np.take_along_axis(rewards, column, axis=1)[:, 0], 0.0)
    cost = np.where(answered, np.take_along_axis(costs, column, axis=1)[:, 0], 0.0)
    return Outcome(name, reward, cost, int((~answered).sum()))


def always(name: str, column: int, rewards: FloatArray, costs: FloatArray) -> Outcome:
    """One model for everything, whatever the budgets say."""
    return Outcome(name, rewards[:, column], costs[:, column])


def at_random(rewards: FloatArray, costs: FloatArray, seed: int) -> Outcome:
    """A uniformly drawn model, whatever the budgets say."""
    choice = np.random.default_rng(seed).integers(0, rewards.shape[1], len(rewards))
    return played("random", choice, rewards, costs)


def gateway(
    rewards: FloatArray, costs: FloatArray, *, user: IntArray, limits: FloatArray, order: IntArray, price: FloatArray
) -> Outcome:
    """A gateway's fallback list: the first model of `order` (best first) that the user can still afford.

    `price` (K,) is what a call costs on average, which is all that a gateway knows in
    advance; the recorded cost is charged. `limits` (users,) in USD.
    """
    left = limits.copy()
    choice = np.full(len(user), REJECTED)
    for n, who in enumerate(user):
        affordable = [column for column in order if price[column] <= left[who]]
        if affordable:
            choice[n] = affordable[0]
            left[who] -= costs[n, affordable[0]]
    return played("gateway fallback", choice, rewards, costs)


def static_mix(rewards: FloatArray, costs: FloatArray, spend_usd: float) -> Outcome:
    """The best fixed mix of two models in hindsight that costs `spend_usd` in all, blind to the queries.

    The outcome is its expectation. Below the price of the cheapest model the rest is turned away.
    """
    weights = _best_mix(rewards.mean(axis=0), costs.mean(axis=0), spend_usd / len(rewards))
    return Outcome("static mix", rewards @ weights, costs @ weights, round((1 - weights.sum()) * len(rewards)))


def static_mix_by_user(rewards: FloatArray, costs: FloatArray, user: IntArray, spends_usd: FloatArray) -> Outcome:
    """The same with a mix for each user, at what that user spent: `spends_usd` (users,).

    Nobody's money pays for another user's queries. Mean rewards and costs of the models
    are those over all queries, which one user's few would not tell.
    """
    queries = np.bincount(user, minlength=len(spends_usd))
    mean_reward, mean_cost = rewards.mean(axis=0), costs.mean(axis=0)
    mixes = [
        _best_mix(mean_reward, mean_cost, spend / max(count, 1))
        for spend, count in zip(spends_usd, queries, strict=True)
    ]
    weights = np.array(mixes)[user]
    rejected = round(float((1 - weights.sum(axis=1)).sum()))
    return Outcome("static mix per user", (rewards * weights).sum(axis=1), (costs * weights).sum(axis=1), rejected)


def _best_mix(mean_reward: FloatArray, mean_cost: FloatArray, target: float) -> FloatArray:
    """Weights (K,) of the best mix at `target` USD a query; their sum is below 1 where not even the cheapest fits."""
    cheapest = int(mean_cost.argmin())
    if target < mean_cost[cheapest]:
        partial: FloatArray = np.eye(len(mean_cost))[cheapest] * (target / mean_cost[cheapest])
        return partial
    return max(_mixes(mean_cost, target), key=lambda mix: float(mix @ mean_reward))


def _mixes(mean_cost: FloatArray, target: float) -> list[FloatArray]:
    """Weights (K,) of every single model within the target and of every pair that meets it exactly."""
    unit = np.eye(len(mean_cost))
    within = [k for k, cost in enumerate(mean_cost) if cost <= target]
    above = [k for k, cost in enumerate(mean_cost) if cost > target]
    mixes = [unit[k] for k in within]
    for low in within:
        for high in above:
            share = (target - mean_cost[low]) / (mean_cost[high] - mean_cost[low])
            mixes.append((1 - share) * unit[low] + share * unit[high])
    return mixes


def ratio_error(reward: FloatArray, reference: FloatArray, seed: int) -> float:
    """Standard error of mean(reward) ÷ mean(reference), by a paired bootstrap over the queries."""
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(reward), (RESAMPLES, len(reward)))
    ratios = reward[draws].sum(axis=1) / reference[draws].sum(axis=1)
    return float(ratios.std(ddof=1)) if len(reward) > 1 else 0.0
