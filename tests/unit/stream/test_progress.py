"""Progress: what is committed, and whether a partition is read to about its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from worker.stream import progress as module
from worker.stream.progress import CURRENT_S, Progress

TP = TopicPartition("t.queries", 0)


@pytest.fixture
def progress(clock: Callable[..., Any]) -> tuple[Progress, Any]:
    return Progress(), clock(module)


def test_unknown_partition_is_not_current(progress: tuple[Progress, Any]) -> None:
    """Before the first probe nothing may expire."""
    found, _ = progress
    assert found.committed("t.queries", 0) is None


def test_partition_at_its_end_is_current(progress: tuple[Progress, Any]) -> None:
    """An idle partition whose commits stand at its end is current at once."""
    found, _ = progress
    found.note({TP: (7, 7)})
    assert found.committed("t.queries", 0) == 7


def test_backlog_is_not_current_until_it_is_read(progress: tuple[Progress, Any]) -> None:
    """A partition that comes back with a backlog becomes current when its commits reach what was its end."""
    found, clock = progress
    found.note({TP: (100, 5_000)})
    clock.now += 2
    found.note({TP: (4_000, 6_000)})
    assert found.committed("t.queries", 0) is None
    clock.now += 2
    found.note({TP: (5_000, 7_000)})
    assert found.committed("t.queries", 0) == 5_000


def test_busy_partition_stays_current(progress: tuple[Progress, Any]) -> None:
    """Steady input that is never quite read to the end does not stop expiry."""
    found, clock = progress
    found.note({TP: (10, 10)})
    for number in range(1, 50):
        clock.now += 2
        found.note({TP: (10 + 100 * (number - 1), 10 + 100 * number)})
        assert found.committed("t.queries", 0) is not None


def test_partition_that_falls_behind_is_no_longer_current(progress: tuple[Progress, Any]) -> None:
    """When commits stay behind an old end for too long, what lies there may not be expired over."""
    found, clock = progress
    found.note({TP: (10, 10)})
    for _ in range(int(CURRENT_S)):
        clock.now += 2
        found.note({TP: (10, 5_000)})
    assert found.committed("t.queries", 0) is None


def test_silence_of_the_broker_is_not_current(progress: tuple[Progress, Any]) -> None:
    """Without probes nobody knows what lies in the partition."""
    found, clock = progress
    found.note({TP: (10, 10)})
    clock.now += CURRENT_S + 1
    assert found.committed("t.queries", 0) is None


def test_lost_partitions_are_named_and_forgotten(progress: tuple[Progress, Any]) -> None:
    """A partition that is no longer probed is said once, and must prove itself again if it comes back."""
    found, _ = progress
    other = TopicPartition("t.queries", 1)
    assert found.note({TP: (1, 1), other: (1, 1)}) == []
    assert found.note({other: (1, 1)}) == [("t.queries", 0)]
    assert found.note({other: (1, 1)}) == []
    assert found.committed("t.queries", 0) is None
    found.note({TP: (1, 9)})
    assert found.committed("t.queries", 0) is None
