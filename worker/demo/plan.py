"""Who asks what, when, and with which budget: drawn once from a seed, the same on every run.

Users ask at Zipf rates (exponent 1) with Poisson arrivals. A user's limit is a share of what
their expected queries would cost with the best model; some shares buy next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from worker.core.verdict import FloatArray
from worker.demo.data import Dataset
from worker.errors import UsageError

SEED = 20_258
QUERIES_PER_S = 20.0
MIN_DURATION_S, MAX_DURATION_S = 10.0, 180.0
# The workers share the cores with the broker and the caller, and queries come in bursts.
SHARE_OF_ENCODING = 0.45  # of what one core encodes; two workers share two cores with the broker and the caller
# The window outlasts the last arrival by this, so that no straggler starts a new budget.
WINDOW_SLACK_S = 2
# Share of the best model's cost that a user can afford, dealt out in turn from the busiest user on. The middle
# model costs 3.4 % of the best one, the cheapest .2 %: most have to choose whom to ask what, some are poor.
BUDGET_SHARES = (0.03, 0.02, 0.04, 0.02, 0.01, 0.03, 0.02, 0.06, 0.03, 0.004)
POOREST_SHARE = 0.002  # the least busy of several users: turned away when unlucky
# Preset `paper` learns on a tenth of the queries without a budget, which would leave nothing of such shares;
# ten times as much is about the quarter of the best model's cost for which the paper reports.
PAPER_BUDGETS = 10.0
SMALLEST_LIMIT_USD = 1e-6
EMBEDDED_FROM, EMBEDDED_TO = 0.55, 0.75  # this stretch of the stream comes as embeddings
REPEATED_SHARE = 0.02
REPEATED_FEEDBACK_SHARE = 0.02
IN_PARTS_SHARE = 0.3
PINNED_EVERY = 150  # queries between two whose model the caller fixes, and whose feedback comes first
DELAY_S = (0.2, 4.0)  # how long a caller takes to run the model and rate its answer


@dataclass(frozen=True, slots=True)
class PlannedQuery:
    """One query and what its caller will do about it; times in seconds."""

    at_s: float
    query_id: str
    user_id: str
    row: int
    embedded: bool
    pinned: bool
    repeated: bool
    in_parts: bool
    feedback_repeated: bool
    delay_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole stream, in order of time."""

    queries: tuple[PlannedQuery, ...]
    limits_usd: dict[str, float]
    duration_s: float

    @property
    def window_s(self) -> int:
        """Length of the budget window in whole seconds."""
        return math.ceil(self.duration_s) + WINDOW_SLACK_S

    def paced_for(self, texts_per_s: float) -> Plan:
        """The same plan, stretched for a machine that encodes `texts_per_s` on one core, but to 3 minutes at most."""
        wanted = len(self.queries) / (SHARE_OF_ENCODING * texts_per_s)
        duration = max(self.duration_s, min(wanted, MAX_DURATION_S))
        stretched = (replace(query, at_s=query.at_s * duration / self.duration_s) for query in self.queries)
        return replace(self, queries=tuple(stretched), duration_s=duration)

    @property
    def embedded_rows(self) -> tuple[int, ...]:
        """Rows that are sent as embeddings."""
        return tuple(sorted({query.row for query in self.queries if query.embedded}))


def draw(dataset: Dataset, queries: int, users: int, budgets: float = 1.0) -> Plan:
    """Draw the plan of a run; `budgets` multiplies every limit.

    Raises:
        UsageError: no query or no user at all.
    """
    if queries < 1 or users < 1:
        raise UsageError(f"--queries {queries} --users {users}: both must be at least 1")
    random = np.random.default_rng(SEED)
    names = [f"user-{rank + 1:02d}" for rank in range(users)]
    rates = 1 / np.arange(1, users + 1)
    rates /= rates.sum()
    duration = max(MIN_DURATION_S, queries / QUERIES_PER_S)
    times = np.sort(random.uniform(0, duration, queries))
    asked_by = random.choice(users, queries, p=rates)
    rows = _rows(random, len(dataset.stream.prompts), queries)
    flags = random.random((queries, 3)) < (REPEATED_SHARE, REPEATED_FEEDBACK_SHARE, IN_PARTS_SHARE)
    delays = random.uniform(*DELAY_S, queries)
    planned = tuple(
        PlannedQuery(
            at_s=float(times[n]),
            query_id=f"q-{n:06d}",
            user_id=names[asked_by[n]],
            row=int(rows[n]),
            embedded=EMBEDDED_FROM <= n / queries < EMBEDDED_TO,
            pinned=n % PINNED_EVERY == PINNED_EVERY - 1,
            repeated=bool(flags[n, 0]),
            in_parts=bool(flags[n, 2]),
            feedback_repeated=bool(flags[n, 1]),
            delay_s=float(delays[n]),
        )
        for n in range(queries)
    )
    return Plan(planned, _limits(dataset, names, rates * queries * budgets), duration)


def _rows(random: np.random.Generator, available: int, wanted: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every row once before any row twice."""
    rounds = math.ceil(wanted / available)
    return np.concatenate([random.permutation(available) for _ in range(rounds)])[:wanted]


def _limits(dataset: Dataset, names: list[str], paid_queries: FloatArray) -> dict[str, float]:
    dearest = float(dataset.prior.costs.mean(axis=0)[best_model(dataset)])
    shares = np.resize(BUDGET_SHARES, len(names))
    if len(names) > 1:
        shares[-1] = POOREST_SHARE
    return {
        name: max(SMALLEST_LIMIT_USD, round(float(share * dearest * paid), 6))
        for name, share, paid in zip(names, shares, paid_queries, strict=True)
    }


def best_model(dataset: Dataset) -> int:
    """Column of the model with the highest mean reward on the prior's rows: what a caller would have picked."""
    return int(dataset.prior.rewards.mean(axis=0).argmax())


def middle_model(dataset: Dataset) -> int:
    """Column of the model in the middle of the price range: the one for queries whose model the caller fixes."""
    return int(np.argsort(dataset.prior.costs.mean(axis=0))[len(dataset.models) // 2])
