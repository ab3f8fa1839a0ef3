"""Intake: which events of one source topic reach their handler, and in which order.

An event is admitted by contiguity, prepared (which may take time: encoding), and
applied synchronously in the order of admission. The agent does not wait for slow
preparations one by one, so they share micro-batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

from worker.stream.batch import SourceRecord
from worker.stream.contiguity import Admission
from worker.stream.lane import Lane
from worker.stream.tenure import Tenure

logger = structlog.get_logger(__name__)
T = TypeVar("T")

MAX_PREPARING = 64  # two full micro-batches: one being encoded, one gathering


class Intake(Generic[T]):
    """One source topic of the worker, for all its partitions."""

    def __init__(
        self,
        tenure: Tenure,
        lane: Lane,
        gate: asyncio.Event,
        prepare: Callable[[SourceRecord], T | asyncio.Future[T]],
        handle: Callable[[SourceRecord, T], None],
    ) -> None:
        self.seen_at = time.monotonic()
        self.stopping = False
        self._tenure = tenure
        self._lane = lane
        self._gate = gate
        self._prepare = prepare
        self._handle = handle
        self._queue: asyncio.Queue[tuple[Any, SourceRecord, T | asyncio.Future[T]]] = asyncio.Queue(MAX_PREPARING)
        self._waiting = 0
        self._inside = False

    @property
    def busy(self) -> bool:
        """Whether an event is being dealt with or must wait for the gate; silence is no hole then."""
        return self._inside or self._waiting > 0 or not self._gate.is_set()

    @property
    def open(self) -> bool:
        """Whether everything is known that decisions need."""
        return self._gate.is_set()

    async def prepared(self) -> None:
        """Wait until no admitted event waits for its preparation."""
        await self._queue.join()

    async def run(self, stream: Any) -> None:
        """Consume the topic; the body of the Faust agent.

        Nothing is decided before the gate opens: models, budgets and what was learned must be known first.
        """
        await self._gate.wait()
        async for event in stream.noack().events():
            self._inside = True
            await self._take(event)
            self._inside = False

    async def run_prepared(self) -> None:
        """Apply the events whose preparation takes time, in order."""
        while True:
            event, record, prepared = await self._queue.get()
            ready: T = await prepared if isinstance(prepared, asyncio.Future) else prepared
            self._apply(event, record, ready)
            self._waiting -= 1
            self._queue.task_done()
            await self._lane.maybe_flush()

    async def _take(self, event: Any) -> None:
        self.seen_at = time.monotonic()
        message, position = event.message, event.message.source_position
        known = position.hole_since is not None
        admission = position.admit(message.offset, message.previous_offset)
        if admission is not Admission.ADMIT or self.stopping:
            if admission is Admission.HOLE and not known:
                logger.warning("hole", topic=message.topic, partition=message.partition, offset=message.offset)
            event.ack()
            return
        record = _record(event)
        prepared = self._prepare(record)
        if self._waiting or isinstance(prepared, asyncio.Future):
            self._waiting += 1
            await self._queue.put((event, record, prepared))
            return
        self._apply(event, record, prepared)
        await self._lane.maybe_flush()

    def _apply(self, event: Any, record: SourceRecord, prepared: T) -> None:
        position = event.message.source_position
        if not position.live:
            event.ack()
            return
        self._tenure.enter(position.assignment)
        self._handle(record, prepared)
        self._tenure.journal.batch.covered.append((position, record.offset, event))
        self._lane.touch(self._tenure.assignment, self._tenure.generation)


def _record(event: Any) -> SourceRecord:
    message = event.message
    return SourceRecord(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp_ms,
        message.key,
        message.value,
        tuple(message.headers or ()),
    )
