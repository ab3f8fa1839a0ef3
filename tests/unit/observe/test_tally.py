"""Sums by label, beside prometheus-client's own on the same values."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest

from worker.observe.tally import Level, Mean, Spread, Tallies, Tally, Total, quantile


def exposed(*tallies: Tally) -> list[str]:
    """The lines of values that a scrape sees."""
    registry, collected = CollectorRegistry(), Tallies(lambda: None)
    collected.declare(*tallies)
    registry.register(collected)
    return lines(registry)


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return sorted(line for line in text.splitlines() if not line.startswith("#") and "_created" not in line)


def test_exposition_is_that_of_the_client_library() -> None:
    """Counter, summary and histogram, with and without labels: the same text for the same values."""
    theirs = CollectorRegistry()
    counter = Counter("pilot_c", "c", ("a", "b"), registry=theirs)
    summary = Summary("pilot_s", "s", ("a",), registry=theirs)
    spread = Histogram("pilot_h", "h", ("a",), buckets=(0.5, 1, 2.5), registry=theirs)
    ours = (Total("c", "c", "a", "b"), Mean("s", "s", "a"), Spread("h", "h", (0.5, 1, 2.5), "a"))
    for value, label in ((0.5, "x"), (0.75, "x"), (9.0, "y\n")):
        counter.labels(label, "z").inc(value)
        summary.labels(label).observe(value)
        spread.labels(label).observe(value)
        ours[0].add(value, label, "z")
        ours[1].add(value, label)
        ours[2].add(value, label)
    assert exposed(*ours) == lines(theirs)


def test_totals_sum_over_labels() -> None:
    """By one label, by fixed others, and altogether."""
    total = Total("t", "t", "model", "status")
    for amount, model, status in ((1, "a", "ok"), (2, "a", "bad"), (4, "b", "ok")):
        total.add(amount, model, status)
    assert total.by("model") == {"a": 3, "b": 4}
    assert total.by("model", status="ok") == {"a": 1, "b": 4}
    assert (total.sum(), total.sum(status="bad")) == (7, 2)


def test_a_level_can_disappear() -> None:
    """A series that is set to nothing is not exposed any more, and need not have been there."""
    level = Level("l", "l", "a")
    level.set(1, "x")
    level.set(2, "y")
    level.set(None, "x")
    level.set(None, "never")
    assert exposed(level) == ['pilot_l{a="y"} 2.0']


def test_mean_of_nothing_is_unknown() -> None:
    """No value, no mean."""
    mean = Mean("m", "m", "a")
    assert mean.mean("x") is None
    mean.add(1, "x")
    mean.add(2, "x")
    assert mean.mean("x") == 1.5


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([4, 0, 0], 0.5, 0.5),
        ([2, 2, 0], 0.75, 2.0),
        ([1, 0, 1], 0.99, 3.0),
        ([0, 4, 0], 0.0, 1.0),
    ],
)
def test_quantile_is_linear_within_a_bucket(counts: list[int], share: float, expected: float | None) -> None:
    """Bounds 1 and 3: half of the first bucket is .5; beyond the last bound only the bound is known."""
    assert quantile((1.0, 3.0), counts, share) == expected
