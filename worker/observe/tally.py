"""Sums by label, kept in plain dictionaries and handed to Prometheus when it asks.

prometheus-client's own objects, their children bound beforehand, take twice as long, over ten
microseconds more a decision and its feedback (`docs/decisions/0008-observation.md`). Every series has
one writing thread, any thread may read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import inf, isinf

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

Labels = tuple[str, ...]


class Total:
    """A counter: it only grows."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name, self.meaning, self.labels = f"pilot_{name}", meaning, labels
        self.values: defaultdict[Labels, float] = defaultdict(float)
        if not labels:
            self.values[()] = 0.0

    def add(self, amount: float, *labels: str) -> None:
        """Grow the series of these labels."""
        self.values[labels] += amount

    def by(self, label: str, **fixed: str) -> dict[str, float]:
        """Sums by one label over all others, but for those that are fixed."""
        place, wanted = self.labels.index(label), [(self.labels.index(n), value) for n, value in fixed.items()]
        sums: dict[str, float] = {}
        for labels, value in list(self.values.items()):
            if all(labels[at] == expected for at, expected in wanted):
                sums[labels[place]] = sums.get(labels[place], 0.0) + value
        return sums

    def sum(self, **fixed: str) -> float:
        """Over all series, but for the labels that are fixed."""
        return sum(self.by(self.labels[0], **fixed).values()) if self.labels else self.values[()]

    def collect(self) -> Metric:
        """As Prometheus reads it."""
        family = CounterMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        return family


class Level:
    """A gauge: the last value counts, and a series can disappear."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name, self.meaning, self.labels = f"pilot_{name}", meaning, labels
        self.values: dict[Labels, float] = {}

    def set(self, value: float | None, *labels: str) -> None:
        """The value of the series of these labels; None: there is none any more."""
        if value is None:
            self.values.pop(labels, None)
        else:
            self.values[labels] = value

    def replace(self, values: dict[Labels, float]) -> None:
        """All series at once."""
        self.values = values

    def collect(self) -> Metric:
        """As Prometheus reads it."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        return family


class Mean:
    """A summary without quantiles: sum and count, whose ratio is the mean."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name, self.meaning, self.labels = f"pilot_{name}", meaning, labels
        self.sums: defaultdict[Labels, float] = defaultdict(float)
        self.counts: defaultdict[Labels, int] = defaultdict(int)

    def add(self, value: float, *labels: str) -> None:
        """Take in one value."""
        self.sums[labels] += value
        self.counts[labels] += 1

    def mean(self, *labels: str) -> float | None:
        """Of one series; None before its first value."""
        count = self.counts.get(labels, 0)
        return self.sums[labels] / count if count else None

    def collect(self) -> Metric:
        """As Prometheus reads it."""
        family = SummaryMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, count in list(self.counts.items()):
            family.add_metric(labels, count_value=count, sum_value=self.sums[labels])
        return family


class Spread:
    """A histogram with fixed upper bounds, the last one infinite."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], *labels: str) -> None:
        self.name, self.meaning, self.labels = f"pilot_{name}", meaning, labels
        self.bounds = tuple(bounds)
        self.counts: dict[Labels, list[int]] = {}
        self.sums: defaultdict[Labels, float] = defaultdict(float)
        if not labels:
            self._open(())

    def add(self, value: float, *labels: str) -> None:
        """Take in one value."""
        counts = self.counts.get(labels) or self._open(labels)
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[labels] += value

    def _open(self, labels: Labels) -> list[int]:
        self.sums[labels] = 0.0
        counts = self.counts[labels] = [0] * (len(self.bounds) + 1)
        return counts

    def collect(self) -> Metric:
        """As Prometheus reads it."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, counts in list(self.counts.items()):
            below, buckets = 0, []
            for bound, count in zip((*self.bounds, inf), counts, strict=True):
                below += count
                buckets.append(("+Inf" if isinf(bound) else str(float(bound)), below))
            family.add_metric(labels, buckets=buckets, sum_value=self.sums[labels])
        return family


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """The value below which this share of a histogram's values lies, linear within a bucket; None if it is empty.

    Beyond the last finite bound nothing is known: the bound itself.
    """
    wanted = share * sum(counts)
    below = 0.0
    for number, count in enumerate(counts):
        if count and below + count >= wanted:
            if number >= len(bounds):
                break
            low = bounds[number - 1] if number else 0.0
            return low + (bounds[number] - low) * (wanted - below) / count
        below += count
    return bounds[-1] if sum(counts) else None


Tally = Total | Level | Mean | Spread


class Tallies:
    """Collects all tallies for a Prometheus registry; `before` is called first, to set what is measured when asked."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self.all: list[Tally] = []

    def declare(self, *tallies: Tally) -> None:
        """Take them into every collection from now on."""
        self.all.extend(tallies)

    def collect(self) -> Iterable[Metric]:
        """Every metric, also those without a series yet."""
        self._before()
        return [tally.collect() for tally in self.all]
