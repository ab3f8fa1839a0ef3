"""What a router is compared with: rules that need no learning, and two that know the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.verdict import FloatArray
from worker.evaluate.replay import REJECTED, Outcome
from worker.evaluate.table import Rows, Table
from worker.evaluate.traffic import Traffic


@dataclass(frozen=True)
class Task:
    """One evaluation: traffic over a table under a budget.

    `allowed_usd` is the mean cost of a query that the budgets allow; `best` the model
    with the highest mean reward on the test rows; `train` the rows whose mean costs and
    rewards are known beforehand.
    """

    table: Table
    traffic: Traffic
    train: Rows
    best: int
    allowed_usd: float

    @property
    def limits(self) -> FloatArray:
        """Budgets in USD, shape (windows, users)."""
        limits = self.traffic.limits_usd(self.allowed_usd)
        return np.broadcast_to(limits, (self.traffic.window_count, len(limits)))

    @property
    def rewards(self) -> FloatArray:
        """What every model would earn in each round, shape (m, K)."""
        return self.table.rewards[self.traffic.rows]

    @property
    def costs(self) -> FloatArray:
        """What every model would cost in each round in USD, shape (m, K)."""
        return self.table.costs[self.traffic.rows]


def always(task: Task, arm: int) -> Outcome:
    """The same model every time, whatever the budget."""
    return chosen(task, np.full(len(task.traffic.rows), arm))


def best(task: Task) -> Outcome:
    """Always the best model."""
    return always(task, task.best)


def cheapest(task: Task) -> Outcome:
    """Always the model with the least mean cost."""
    return always(task, int(task.costs.mean(axis=0).argmin()))


def random(task: Task) -> Outcome:
    """Every model with the same probability, in expectation."""
    weights = np.full(len(task.table.models), 1.0 / len(task.table.models))
    return _mixed(task, weights, rejected=0.0)


def static_mix(task: Task) -> Outcome:
    """The best fixed mix of two models in hindsight, at the budgets' sum, in expectation.

    Doing nothing is one of the choices, for budgets below the cheapest model.
    """
    budget = float(task.limits.sum()) / len(task.traffic.rows)
    costs = np.append(task.costs.mean(axis=0), 0.0)
    rewards = np.append(task.rewards.mean(axis=0), 0.0)
    weights, value = np.zeros(len(costs)), -1.0
    for a in range(len(costs)):
        for b in range(len(costs)):
            if costs[a] > budget or (costs[b] <= budget and a != b):
                continue
            share = 0.0 if a == b else (budget - costs[a]) / (costs[b] - costs[a])
            mixed = (1 - share) * rewards[a] + share * rewards[b]
            if mixed > value:
                value, weights = mixed, np.zeros(len(costs))
                weights[a] += 1 - share
                weights[b] += share
    return _mixed(task, weights[:-1], rejected=float(weights[-1]))


def hard_cap(task: Task) -> Outcome:
    """The best model for every query that the user's money still pays, the others rejected."""

    def pick(_remaining: float, _left: float) -> int:
        return task.best

    return _sequential(task, pick)


def gateway(task: Task) -> Outcome:
    """The best model while a fallback stays affordable for the rest, then the best affordable one."""
    costs, rewards = task.table.costs[task.train].mean(axis=0), task.table.rewards[task.train].mean(axis=0)
    by_reward = np.argsort(-rewards).tolist()
    fallback = float(costs.min())

    def pick(remaining: float, left: float) -> int:
        if remaining - costs[task.best] >= (left - 1) * fallback:
            return task.best
        affordable = [arm for arm in by_reward if costs[arm] * left <= remaining]
        return int(affordable[0] if affordable else costs.argmin())

    return _sequential(task, pick)


def oracle(task: Task) -> Outcome:
    """The knapsack in hindsight over all rounds and the budgets' sum, one round split between two models."""
    budget = float(task.limits.sum())
    rewards = np.column_stack([task.rewards, np.zeros(len(task.traffic.rows))])
    costs = np.column_stack([task.costs, np.zeros(len(task.traffic.rows))])
    rows = np.arange(len(rewards))

    def at(price: float) -> NDArray[np.int64]:
        choice: NDArray[np.int64] = (rewards - price * costs).argmax(axis=1)
        return choice

    # At the highest price no reward outweighs any cost: all that is not free is left out.
    low, high = 0.0, 2.0 / max(float(costs[costs > 0].min(initial=1.0)), 1e-12)
    if costs[rows, at(low)].sum() > budget:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if costs[rows, at(middle)].sum() > budget else (low, middle)
        choice = at(high)
    else:
        choice = at(low)
    return chosen(task, np.where(choice == len(task.table.models), REJECTED, choice))


def chosen(task: Task, choice: NDArray[np.int64]) -> Outcome:
    """The outcome of a choice per round, shape (m,), `REJECTED` where there is none."""
    rows = np.arange(len(choice))
    routed = choice != REJECTED
    rewards = np.where(routed, task.rewards[rows, choice], 0.0)
    costs = np.where(routed, task.costs[rows, choice], 0.0)
    return _outcome(task, rewards, costs, (~routed).astype(np.float64), choice)


def _mixed(task: Task, weights: FloatArray, rejected: float) -> Outcome:
    share = np.full(len(task.traffic.rows), rejected)
    return _outcome(task, task.rewards @ weights, task.costs @ weights, share, None)


def _outcome(
    task: Task, rewards: FloatArray, costs: FloatArray, rejected: FloatArray, choice: NDArray[np.int64] | None
) -> Outcome:
    spent = np.zeros(task.limits.shape)
    np.add.at(spent, (task.traffic.windows, task.traffic.users), costs)
    return Outcome(task.traffic.rows, rewards, costs, rejected, spent, task.limits, choice)


def _sequential(task: Task, pick: Callable[[float, float], int]) -> Outcome:
    """Round by round; `pick` gets the user's remaining USD and queries to come. Over the budget: rejected."""
    traffic, costs = task.traffic, task.costs
    remaining = task.limits.copy()
    choice = np.full(len(traffic.rows), REJECTED)
    for number, (window, user) in enumerate(zip(traffic.windows, traffic.users, strict=True)):
        left = traffic.left[number]
        if np.isnan(left):
            left = 1 + traffic.expected[user] * (1 - traffic.elapsed[number])
        arm = pick(float(remaining[window, user]), float(left))
        if costs[number, arm] <= remaining[window, user]:
            choice[number] = arm
            remaining[window, user] -= costs[number, arm]
    return chosen(task, choice)


BASELINES: dict[str, Callable[[Task], Outcome]] = {
    "best": best,
    "cheapest": cheapest,
    "random": random,
    "static-mix": static_mix,
    "gateway": gateway,
    "hard-cap": hard_cap,
    "oracle": oracle,
}
