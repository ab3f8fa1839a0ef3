"""Traffic: in which order rows are asked, by whom, when, and with what budget.

Users have Zipf rates and Poisson arrivals; the number of queries of a window is fixed,
so their times are uniform and their users multinomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.core.verdict import FloatArray
from worker.evaluate.table import Rows

Horizon = Literal["known", "learned"]


@dataclass(frozen=True)
class Crowd:
    """How test rows become traffic; `queries` None: every row once, in one window."""

    users: int = 1
    queries: int | None = None
    windows: int = 1
    horizon: Horizon = "known"
    budget_spread: float = 0.0

    @property
    def resamples(self) -> bool:
        """Whether rows are drawn with replacement."""
        return self.users > 1 or self.windows > 1 or self.queries is not None


@dataclass(frozen=True)
class Traffic:
    """m rounds, arrays of shape (m,); `expected` and `factor` of shape (users,).

    `left` is the number of queries that the user still sends in the window, this one
    included, NaN where the router must learn it. A user's budget in each of the
    windows is share × mean cost × expected queries × factor.
    """

    rows: Rows
    users: NDArray[np.int64]
    windows: NDArray[np.int64]
    elapsed: FloatArray
    left: FloatArray
    expected: FloatArray
    factor: FloatArray
    window_count: int = 1

    def limits_usd(self, mean_cost_usd: float) -> FloatArray:
        """Each user's budget for a window when a query may cost so much on average, shape (users,)."""
        return mean_cost_usd * self.expected * self.factor


def in_order(rows: Rows, generator: np.random.Generator) -> Traffic:
    """One user asks every row once, in a random order, and their number is known."""
    count = len(rows)
    return Traffic(
        rows=generator.permutation(rows),
        users=np.zeros(count, np.int64),
        windows=np.zeros(count, np.int64),
        elapsed=np.arange(count) / count,
        left=np.arange(count, 0, -1, dtype=np.float64),
        expected=np.array([float(count)]),
        factor=np.ones(1),
    )


def crowd_traffic(rows: Rows, crowd: Crowd, generator: np.random.Generator) -> Traffic:
    """The traffic that the options describe."""
    if not crowd.resamples:
        traffic = in_order(rows, generator)
        return traffic if crowd.horizon == "known" else _blind(traffic)
    queries = crowd.queries or len(rows)
    rates = 1.0 / np.arange(1, crowd.users + 1)
    rates /= rates.sum()
    spread = crowd.budget_spread
    factor = np.exp(spread * generator.standard_normal(crowd.users) - spread * spread / 2)
    users = generator.choice(crowd.users, (crowd.windows, queries), p=rates)
    left = np.stack([_still_to_come(window, crowd.users) for window in users])
    traffic = Traffic(
        rows=generator.choice(rows, crowd.windows * queries),
        users=users.ravel(),
        windows=np.repeat(np.arange(crowd.windows), queries),
        elapsed=np.sort(generator.random((crowd.windows, queries)), axis=1).ravel(),
        left=left.ravel(),
        expected=rates * queries,
        factor=factor,
        window_count=crowd.windows,
    )
    return traffic if crowd.horizon == "known" else _blind(traffic)


def _still_to_come(users: NDArray[np.int64], count: int) -> FloatArray:
    remaining = np.bincount(users, minlength=count)
    left = np.empty(len(users))
    for index, user in enumerate(users):
        left[index] = remaining[user]
        remaining[user] -= 1
    return left


def _blind(traffic: Traffic) -> Traffic:
    return Traffic(
        traffic.rows,
        traffic.users,
        traffic.windows,
        traffic.elapsed,
        np.full(len(traffic.rows), np.nan),
        traffic.expected,
        traffic.factor,
        traffic.window_count,
    )
