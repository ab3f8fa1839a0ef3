"""History: the last ten minutes of a few totals, in a ring of fixed length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from worker.observe.prometheus import PrometheusObserver
from worker.observe.tally import quantile

STEP_S = 5.0
STEPS = 120
RECENT_STEPS = 12  # a minute


class Totals(NamedTuple):
    """Totals since the start of the process, at one time in seconds since the epoch; money in USD."""

    at: float
    routed: dict[str, float]
    rejected: float
    repeated: float
    latency: tuple[int, ...]
    cost: float
    baseline_cost: float
    reward: float
    baseline_reward: float
    lag: float

    @classmethod
    def of(cls, metrics: PrometheusObserver, now_s: float) -> Totals:
        """As they are now."""
        return cls(
            at=now_s,
            routed=metrics.decisions.by("model", status="routed"),
            rejected=metrics.decisions.sum(status="rejected"),
            repeated=metrics.queries.sum(outcome="repeated"),
            latency=tuple(metrics.latency.counts[()]),
            cost=metrics.cost.sum(kind="estimated"),
            baseline_cost=metrics.baseline.sum(),
            reward=metrics.expected_reward.sum(),
            baseline_reward=metrics.baseline_reward.sum(),
            lag=sum(metrics.lag.values.copy().values()),
        )


class Span(NamedTuple):
    """What happened between two looks."""

    seconds: float
    routed: dict[str, float]
    rejected: float
    latency: tuple[int, ...]
    cost: float
    baseline_cost: float
    reward: float
    baseline_reward: float

    @classmethod
    def between(cls, before: Totals, after: Totals) -> Span:
        """The differences."""
        return cls(
            seconds=max(after.at - before.at, 1e-9),
            routed={model: count - before.routed.get(model, 0.0) for model, count in after.routed.items()},
            rejected=after.rejected - before.rejected,
            latency=tuple(new - old for new, old in zip(after.latency, before.latency, strict=True)),
            cost=after.cost - before.cost,
            baseline_cost=after.baseline_cost - before.baseline_cost,
            reward=after.reward - before.reward,
            baseline_reward=after.baseline_reward - before.baseline_reward,
        )

    @property
    def decided(self) -> float:
        """Decisions, rejections included."""
        return sum(self.routed.values()) + self.rejected

    @property
    def per_s(self) -> float:
        """Decisions a second."""
        return self.decided / self.seconds

    def latency_s(self, bounds: tuple[float, ...], share: float) -> float | None:
        """A quantile of the latency; None without decisions."""
        return quantile(bounds, self.latency, share)

    @property
    def cost_share(self) -> float | None:
        """Cost as a share of always asking the best model; None without decisions."""
        return self.cost / self.baseline_cost if self.baseline_cost > 0 else None

    @property
    def quality_share(self) -> float | None:
        """Expected reward as a share of always asking the best model; None without decisions."""
        return self.reward / self.baseline_reward if self.baseline_reward > 0 else None


class History:
    """Totals every `STEP_S`, at most `STEPS` steps; the first is where the process began."""

    def __init__(self, start: Totals) -> None:
        self._start = start
        self._ring: deque[Totals] = deque([start], maxlen=STEPS + 1)

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, totals: Totals) -> None:
        """Take in one look; the oldest goes."""
        self._ring.append(totals)

    def steps(self) -> Iterator[tuple[Totals, Span]]:
        """Each look with what happened since the one before, oldest first."""
        for before, after in pairwise(list(self._ring)):
            yield after, Span.between(before, after)

    def recent(self, now: Totals) -> Span:
        """The last minute, or what there is of it."""
        ring = list(self._ring)
        return Span.between(ring[-min(RECENT_STEPS, len(ring))], now)

    def whole(self, now: Totals) -> Span:
        """Since the process began."""
        return Span.between(self._start, now)
