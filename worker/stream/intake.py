"""Intake: which events of one source topic reach their handler, and in which order.

An event is admitted by contiguity, prepared (which may take time: encoding), and
applied synchronously in the order of admission. The agent does not wait for slow
preparations one by one, so they share micro-batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import structlog

from worker.stream.batch import SourceRecord
from worker.stream.contiguity import Admission, SourcePosition
from worker.stream.drain import Chunk
from worker.stream.lane import Lane
from worker.stream.tenure import Tenure

logger = structlog.get_logger(__name__)
T = TypeVar("T")

MAX_PREPARING = 64  # two full micro-batches: one being encoded, one gathering

Prepare = Callable[[Sequence[SourceRecord]], Sequence[T | asyncio.Future[T]]]


class Intake(Generic[T]):
    """One source topic of the worker, for all its partitions.

    Records come in chunks; `prepare` gets those of a chunk that are admitted, `handle`
    all that are ready, in order.
    """

    def __init__(
        self,
        tenure: Tenure,
        lane: Lane,
        gate: asyncio.Event,
        prepare: Prepare[T],
        handle: Callable[[Sequence[tuple[SourceRecord, T]]], None],
    ) -> None:
        self.seen_at = time.monotonic()
        self.stopping = False
        self._tenure = tenure
        self._lane = lane
        self._gate = gate
        self._prepare = prepare
        self._handle = handle
        self._queue: asyncio.Queue[tuple[Admitted, T | asyncio.Future[T]]] = asyncio.Queue(MAX_PREPARING)
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
            await self._take(Chunk(event))
            self._inside = False

    async def run_prepared(self) -> None:
        """Apply the events whose preparation takes time, in order."""
        while True:
            admitted, prepared = await self._queue.get()
            ready: T = await prepared if isinstance(prepared, asyncio.Future) else prepared
            self._apply([(admitted, ready)])
            self._waiting -= 1
            self._queue.task_done()
            await self._lane.maybe_flush()

    async def _take(self, chunk: Chunk) -> None:
        self.seen_at = time.monotonic()
        admitted = [Admitted(chunk, record.source_position, _record(record)) for record in self._admit(chunk)]
        prepared = self._prepare([each.record for each in admitted]) if admitted else ()
        pairs = list(zip(admitted, prepared, strict=True))
        if not self._waiting and not any(isinstance(one, asyncio.Future) for one in prepared):
            self._apply(cast("list[tuple[Admitted, T]]", pairs))
            await self._lane.maybe_flush()
            return
        for pair in pairs:
            self._waiting += 1
            await self._queue.put(pair)

    def _admit(self, chunk: Chunk) -> list[Any]:
        """The records to be dealt with; the others are let go."""
        admitted = []
        for record in chunk.records:
            position = record.source_position
            known = position.hole_since is not None
            admission = position.admit(record.offset, record.previous_offset)
            if admission is Admission.ADMIT and not self.stopping:
                admitted.append(record)
                continue
            if admission is Admission.HOLE and not known:
                logger.warning("hole", topic=record.topic, partition=record.partition, offset=record.offset)
            chunk.ack()
        return admitted

    def _apply(self, ready: list[tuple[Admitted, T]]) -> None:
        """Synchronous: either all of them or, where the assignment has ended, none."""
        live = [(admitted, prepared) for admitted, prepared in ready if admitted.position.live]
        if len(live) < len(ready):
            for admitted, _ in ready:
                if not admitted.position.live:
                    admitted.chunk.ack()
        if not live:
            return
        self._tenure.enter(live[0][0].position.assignment)
        self._handle([(admitted.record, prepared) for admitted, prepared in live])
        covered = self._tenure.journal.batch.covered
        covered += [(admitted.position, admitted.record.offset, admitted.chunk) for admitted, _ in live]
        self._lane.touch(self._tenure.assignment, self._tenure.generation)


class Admitted(NamedTuple):
    """A record on its way to the handler."""

    chunk: Chunk
    position: SourcePosition
    record: SourceRecord


def _record(record: Any) -> SourceRecord:
    return SourceRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers or ()),
    )
