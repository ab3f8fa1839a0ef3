"""Contiguity: every record of a source partition reaches its agent once, in order, or the gap is noticed.

Order is the order in which the fetcher hands records out, not offset + 1: each
record is given the offset of the record handed out before it. Transaction
markers, aborted, compacted and expired records are then no holes. The position
object hangs on aiokafka's per-assignment state, so it dies with the assignment.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Any

from aiokafka.consumer.fetcher import FetchResult

_original_getall = FetchResult.getall
_sources: frozenset[str] = frozenset()


class Admission(Enum):
    """What to do with an event that reached its agent."""

    ADMIT = "admit"
    STALE = "stale"  # its assignment is over: the new owner reads it
    DUPLICATE = "duplicate"  # seen in this assignment already
    HOLE = "hole"  # records before it are missing


class SourcePosition:
    """How far one source partition has come in one assignment.

    `last` is the last offset admitted, `done` the last whose effects are
    acknowledged, `chain` the last record handed out by the fetcher and the fetch
    position after it, `committed` what the broker holds (-1: unknown), `seeks` the
    attempts to fetch again what should follow `last`, `expired` how many records
    before `start` were gone before they could be fetched.
    """

    __slots__ = (
        "chain", "committed", "done", "expired", "hole_since", "last", "quiet_since", "seeks", "start", "state", "tp",
    )  # fmt: skip

    def __init__(self, tp: Any, state: Any, start: int) -> None:
        self.tp = tp
        self.state = state
        self.start = start
        self.expired = 0
        self.last = self.done = start - 1
        self.chain = (start - 1, start)
        self.committed = -1
        self.seeks = 0
        self.hole_since: float | None = None
        self.quiet_since = time.monotonic()

    @property
    def live(self) -> bool:
        """Whether the assignment that this position belongs to is still active."""
        return bool(self.state._assignment.active)

    @property
    def assignment(self) -> Any:
        """The assignment object that all partitions of one generation share."""
        return self.state._assignment

    @property
    def commit_position(self) -> int:
        """The offset to commit: past trailing markers and expired records when all is done."""
        fetched, position = self.chain
        return max(self.done + 1, position) if self.done >= fetched else self.done + 1

    def admit(self, offset: int, previous: int) -> Admission:
        """Judge one event; an admitted one becomes the last."""
        if not self.live:
            return Admission.STALE
        if offset <= self.last:
            return Admission.DUPLICATE
        if previous > self.last:
            if self.hole_since is None:
                self.hole_since = time.monotonic()
            return Admission.HOLE
        self.hole_since = None
        self.seeks = 0
        self.last = offset
        self.quiet_since = time.monotonic()
        return Admission.ADMIT


def install(sources: frozenset[str]) -> None:
    """Chain the records of these topics as the fetcher hands them out."""
    global _sources  # noqa: PLW0603 - one worker per process, and the hook is a method of a third-party class
    _sources = sources
    FetchResult.getall = _chained_getall


def is_source(topic: str) -> bool:
    """Whether the topic is one of the two that agents read."""
    return topic in _sources


def begin_at(tp: Any, state: Any, committed: int) -> None:
    """A source partition goes on after `committed`, whatever the log still has of it. Consumer thread.

    A fetcher whose position has expired begins where the log begins and says nothing.
    """
    position = getattr(state, "source_position", None)
    if position is None:
        state.source_position = SourcePosition(tp, state, committed)
    else:  # fetched from before the commit was known
        position.expired = max(0, position.start - committed)


def _chained_getall(self: Any, max_records: int | None = None) -> Any:
    """Runs on the consumer thread, in one step with the update of the fetch position."""
    state = self._assignment.state_value(self._topic_partition)
    before = state._position
    records = _original_getall(self, max_records)
    if before is None or self._topic_partition.topic not in _sources:
        return records
    position = getattr(state, "source_position", None)
    if position is None:
        position = state.source_position = SourcePosition(self._topic_partition, state, before)
    last, expected = position.chain
    if expected != before:  # somebody sought: the chain starts anew
        last = before - 1
    for record in records:
        record.previous_offset, record.source_position, last = last, position, record.offset
    position.chain = (last, state._position)
    return records
