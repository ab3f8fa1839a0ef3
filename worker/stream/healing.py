"""Healing: records that the fetcher handed out but that never reached their agent are fetched again.

A hole that three seeks do not close ends the process (exit 70): a restart begins
at the committed offset and misses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from worker.errors import ExitCode, WorkerMustStop
from worker.observe.records import Observer, RecordsLost
from worker.stream.contiguity import SourcePosition
from worker.stream.intake import Intake

logger = structlog.get_logger(__name__)

HOLE_S = 0.5
SILENT_S = 2.0
IDLE_S = 1.0
AT_WORK_S = 5.0  # a chunk of texts takes the encoder a second or two
GRACE_S = 2.5  # what is queued in front of the re-fetched records must drain first
ATTEMPTS = 3


class Healer:
    """Watches the source positions of the current assignment."""

    def __init__(
        self, consumer: Callable[[], Any], intakes: Mapping[str, Intake[Any]], prefix: str, observer: Observer
    ) -> None:
        self._consumer = consumer
        self._intakes = intakes
        self._prefix = prefix
        self._observer = observer

    def postpone(self, positions: list[SourcePosition]) -> None:
        """Nothing is delivered during recovery and rebalances: silence means nothing then."""
        now = time.monotonic()
        for position in positions:
            position.quiet_since = max(position.quiet_since, now)

    def at_work(self, topic: str) -> bool:
        """Whether the topic's agent has taken up records lately."""
        return time.monotonic() - self._intakes[topic].seen_at < AT_WORK_S

    async def check(self, positions: list[SourcePosition]) -> None:
        """Seek where records are missing."""
        now = time.monotonic()
        for position in positions:
            if position.expired:
                self._tell_lost(position, position.start - position.expired, position.expired)
                position.expired = 0
            if position.hole_since is not None:
                if now - position.hole_since > HOLE_S:
                    await self.heal(position, "hole")
            elif self._silent(position, now):
                await self.heal(position, "silent")

    def _silent(self, position: SourcePosition, now: float) -> bool:
        """Handed out, never seen, while the agent has nothing to do."""
        intake = self._intakes[position.tp.topic]
        outstanding = position.chain[0] > position.last
        idle = not intake.busy and now - intake.seen_at > IDLE_S
        return outstanding and idle and now - position.quiet_since > SILENT_S

    async def heal(self, position: SourcePosition, reason: str) -> None:
        """Seek to the first missing record.

        Raises:
            WorkerMustStop: it did not help three times.
        """
        position.seeks += 1
        where = f"{position.tp.topic}/{position.tp.partition} after offset {position.last}"
        if position.seeks > ATTEMPTS:
            raise WorkerMustStop(ExitCode.HOLE, f"records are missing from {where} ({reason}) and do not come back")
        consumer = self._consumer()
        at = await consumer.on_thread(consumer._thread.seek_back(position))  # noqa: SLF001 - our own subclass
        logger.warning("fetching again", where=where, reason=reason, seek=at)
        if at is not None and at > position.last + 1 and position.done == position.last:
            self._lost(position, at)
        position.quiet_since = time.monotonic() + SILENT_S
        if position.hole_since is not None:
            position.hole_since = time.monotonic() + GRACE_S

    def _lost(self, position: SourcePosition, at: int) -> None:
        """The log begins beyond the hole: retention took the records, which only can be said, not mended."""
        first = position.last + 1
        self._tell_lost(position, first, at - first)
        position.last = position.done = at - 1
        position.seeks = 0

    def _tell_lost(self, position: SourcePosition, first: int, count: int) -> None:
        topic = position.tp.topic.removeprefix(self._prefix)
        self._observer.observe(RecordsLost(topic, position.tp.partition, first, count))
