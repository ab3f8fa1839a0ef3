"""Replays traffic through a router: each decision reveals the chosen model's reward and cost, nothing else."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.arrivals import carry
from worker.core.router import Router
from worker.core.verdict import Account, FloatArray, History, Request, Verdict
from worker.evaluate.table import Rows, Table
from worker.evaluate.traffic import Traffic
from worker.money import to_nanos, to_usd

REJECTED = -1


@dataclass(frozen=True)
class Outcome:
    """What m rounds brought, arrays of shape (m,): rewards (0 if rejected), costs in USD.

    `choice` is the number of the model, `REJECTED`, or None for a mix of models.
    `spent` and `limits` in USD have shape (windows, users); `seconds` is the time of
    deciding and learning.
    """

    rows: Rows
    rewards: FloatArray
    costs: FloatArray
    rejected: FloatArray
    spent: FloatArray
    limits: FloatArray
    choice: NDArray[np.int64] | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class _Purse:
    """A user's budget window, in nano-dollars."""

    limit: int
    history: History = field(default_factory=History)
    settled: int = 0
    reserved: int = 0
    expected: int = 0
    queries: int = 0

    def account(self, elapsed: float, left: float) -> Account:
        known = None if math.isnan(left) else left
        return Account(
            self.limit, self.settled, self.reserved, self.expected, self.queries, elapsed, self.history, known
        )


class _Due(NamedTuple):
    """Feedback on its way."""

    purse: _Purse
    context: FloatArray
    verdict: Verdict
    reward: float
    cost_usd: float


class Replay:
    """Runs traffic over one table through one router.

    Args:
        router: with the table's models as its arms, in their order.
        table: its rewards and costs are read only for the model that was chosen.
        contexts: ψ of every row, shape (n, d).
        delay: after how many further queries feedback arrives.
        learn: whether feedback teaches the router; it always settles.
    """

    def __init__(
        self, router: Router, table: Table, contexts: FloatArray, *, delay: int = 0, learn: bool = True
    ) -> None:
        self._router = router
        self._table = table
        self._contexts = contexts
        self._delay = delay
        self._learn = learn
        self._number = {model: k for k, model in enumerate(table.models)}
        self._bytes = [len(prompt.encode()) for prompt in table.prompts]

    def run(self, traffic: Traffic, mean_cost_usd: float, seed: int) -> Outcome:
        """Every round in turn; a user's windows have the budget that `mean_cost_usd` a query allows."""
        limits = traffic.limits_usd(mean_cost_usd)
        size = (traffic.window_count, len(limits))
        purses: list[list[_Purse | None]] = [[None] * len(limits) for _ in range(traffic.window_count)]
        choice = np.full(len(traffic.rows), REJECTED)
        due: deque[_Due | None] = deque()
        began = time.perf_counter()
        rounds = zip(
            traffic.rows.tolist(), traffic.users.tolist(), traffic.windows.tolist(), traffic.elapsed.tolist(),
            traffic.left.tolist(), strict=True,
        )  # fmt: skip
        for number, (row, user, window, elapsed, left) in enumerate(rounds):
            purse = purses[window][user] or _open(purses, window, user, float(limits[user]))
            verdict = self._decide(f"{seed}:{number}", str(user), row, purse.account(elapsed, left))
            purse.queries += 1
            due.append(self._call(row, purse, verdict))
            if verdict.model is not None:
                choice[number] = self._number[verdict.model]
            if len(due) > self._delay:
                self._settle(due.popleft())
        for feedback in due:
            self._settle(feedback)
        seconds = time.perf_counter() - began
        return self._outcome(traffic, choice, _spent(purses, size), np.broadcast_to(limits, size), seconds)

    def _decide(self, query_id: str, user_id: str, row: int, account: Account) -> Verdict:
        bounds = self._table.bounds
        request = Request(query_id, self._contexts[row], text_bytes=self._bytes[row], user_id=user_id)
        return self._router.decide(request, account, None if bounds is None else bounds[row])

    def _call(self, row: int, purse: _Purse, verdict: Verdict) -> _Due | None:
        if verdict.model is None or verdict.reservation_nanos is None or verdict.estimated_cost_nanos is None:
            return None
        purse.reserved += verdict.reservation_nanos
        purse.expected += verdict.estimated_cost_nanos
        arm = self._number[verdict.model]
        reward, cost = float(self._table.rewards[row, arm]), float(self._table.costs[row, arm])
        return _Due(purse, self._contexts[row], verdict, reward, cost)

    def _settle(self, feedback: _Due | None) -> None:
        if feedback is None:
            return
        purse, verdict = feedback.purse, feedback.verdict
        purse.settled += to_nanos(feedback.cost_usd)
        purse.reserved -= verdict.reservation_nanos or 0
        purse.expected -= verdict.estimated_cost_nanos or 0
        if self._learn and verdict.model is not None:
            predicted = to_usd(verdict.predicted_cost_nanos or 0)
            self._router.observe(verdict.model, feedback.context, feedback.reward, feedback.cost_usd, predicted)

    def _outcome(
        self, traffic: Traffic, choice: NDArray[np.int64], spent: FloatArray, limits: FloatArray, seconds: float
    ) -> Outcome:
        routed = choice != REJECTED
        rewards = np.where(routed, self._table.rewards[traffic.rows, choice], 0.0)
        costs = np.where(routed, self._table.costs[traffic.rows, choice], 0.0)
        return Outcome(
            traffic.rows, rewards, costs, (~routed).astype(np.float64), spent, limits, choice=choice, seconds=seconds
        )


def _open(purses: list[list[_Purse | None]], window: int, user: int, limit_usd: float) -> _Purse:
    """A user's first query of a window: the rate history comes from the windows since their first."""
    history = History()
    seen = False
    for past in purses[:window]:
        before = past[user]
        seen = seen or before is not None
        if seen:
            history = carry(history, 0 if before is None else before.queries)
    purse = purses[window][user] = _Purse(to_nanos(limit_usd), history)
    return purse


def _spent(purses: list[list[_Purse | None]], size: tuple[int, int]) -> FloatArray:
    amounts = [[0.0 if purse is None else to_usd(purse.settled) for purse in window] for window in purses]
    return np.array(amounts).reshape(size)
