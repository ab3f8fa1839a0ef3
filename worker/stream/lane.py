"""The lane: what leaves a partition, in which order, and when it counts as done.

Both agents write into one batch; batches leave through one pipeline:

1. `pending`, the arbiter; when all of it is acknowledged
2. spend, arms, decisions and dead letters; when all of them are acknowledged
3. the local store, then `done` of both topics, then the commit.

Later batches follow through the stages like in a factory, none overtakes. The
orders that look as good lose or double events (docs/decisions/0001-delivery.md).
Shards are large and leave rarely; what they hold is not done before they have left
(docs/decisions/0015-shards-leave-rarely.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

import structlog

from worker.stream.batch import Batch, Journal
from worker.stream.delivery import Delivery, Outgoing, Sent, undeliverable
from worker.stream.tables import Change, Tables

logger = structlog.get_logger(__name__)

MAX_EVENTS = 400
LINGER_S = 0.003
# Few: under load a batch grows while those before it are written, and large batches are what makes it fast.
MAX_BATCHES_UNDERWAY = 3
SHARDS_EVERY_S = 0.25  # a quarter of what a replica may lag behind
_DOUBT_S = 0.05

Plan = dict[tuple[str, int], list[Change]]


class Ownership(Protocol):
    """Whether this worker may still write for an assignment."""

    @property
    def doubtful(self) -> bool:
        """Whether the lease has run out for now."""

    def owns(self, assignment: Any, generation: int | None) -> bool:
        """Whether the assignment is active and its generation is the coordinator's."""


class Lane:
    """One pipeline for all partitions of the worker."""

    def __init__(self, journal: Journal, tables: Tables, delivery: Delivery, ownership: Ownership) -> None:
        self.journal = journal
        self.acknowledged = 0
        self._tables = tables
        self._delivery = delivery
        self._ownership = ownership
        self._room = asyncio.Semaphore(MAX_BATCHES_UNDERWAY)
        self._filled = asyncio.Event()
        self._stages: tuple[asyncio.Queue[Shipment], ...] = (asyncio.Queue(), asyncio.Queue(), asyncio.Queue())
        self._idle = asyncio.Event()
        self._idle.set()
        self._underway = 0
        self._shards_left = 0.0

    def touch(self, assignment: Any, generation: int | None) -> None:
        """Note that the current batch has content, and whose."""
        batch = self.journal.batch
        if batch.assignment is None:
            batch.assignment, batch.generation = assignment, generation
        self._filled.set()

    async def maybe_flush(self) -> None:
        """Send the current batch if it is full; waits while too many are under way."""
        batch = self.journal.batch
        if len(batch.covered) - batch.held >= MAX_EVENTS:
            await self.flush()

    async def flush(self, *, everything: bool = False) -> None:
        """Send the current batch now; its shards if they are due or `everything` is."""
        await self._room.acquire()
        batch = self.journal.batch
        if batch.assignment is None:
            self._room.release()
            return
        self._turn(batch, time.monotonic(), everything=everything)
        self._underway += 1
        self._idle.clear()
        self._stages[0].put_nowait(Shipment(batch, self._tables.plan(batch, self.journal.state)))

    def _turn(self, batch: Batch, now: float, *, everything: bool) -> None:
        """Close the batch; shards that left a moment ago are held for a later one, which a timer sends."""
        wait = self._shards_left + SHARDS_EVERY_S - now
        if not batch.shards:
            self.journal.turn()
        elif everything or wait <= 0:
            self.journal.turn()
            self._shards_left = now
        else:
            if not batch.held:
                asyncio.get_running_loop().call_later(wait, self._filled.set)
            self.journal.turn(hold_shards=True)

    async def drained(self) -> None:
        """Wait until nothing is under way; for a graceful stop."""
        await self.flush(everything=True)
        await self._idle.wait()

    async def run_flusher(self) -> None:
        """Send batches that are not full a few milliseconds after their first event."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await asyncio.sleep(LINGER_S)
            await self.flush()

    async def run_stage(self, number: int) -> None:
        """Stage 0 sends `pending`, stage 1 everything else, each after what lies before it is acknowledged."""
        while True:
            shipment = await self._stages[number].get()
            await self._acknowledge(shipment)
            if not shipment.abandoned and await self._may_send(shipment.batch):
                for (topic, partition), changes in shipment.plans[number].items():
                    records = [Outgoing(change.key, change.value, change.headers) for change in changes]
                    shipment.underway.append((changes, await self._delivery.send(topic, partition, records)))
            else:
                shipment.abandoned = True
            self._stages[number + 1].put_nowait(shipment)

    async def run_finisher(self) -> None:
        """Write the store and mark the events done once everything is acknowledged."""
        while True:
            shipment = await self._stages[-1].get()
            await self._acknowledge(shipment)
            self._finish(shipment)

    async def _acknowledge(self, shipment: Shipment) -> None:
        underway, shipment.underway = shipment.underway, []
        for changes, sent in underway:
            position = 0
            for part in sent:
                try:
                    metadata = await part.acknowledged
                except Exception as error:
                    raise undeliverable(error) from error
                if shipment.batch.assignment.active:
                    self._tables.store(changes[position : position + part.records], metadata, part.at_ms)
                position += part.records

    async def _may_send(self, batch: Batch) -> bool:
        """Own it: send. Lost it: drop. In doubt: wait for the next heartbeat or the end of the assignment."""
        while self._ownership.owns(batch.assignment, batch.generation):
            if not self._ownership.doubtful:
                return True
            await asyncio.sleep(_DOUBT_S)
        return False

    def _finish(self, shipment: Shipment) -> None:
        batch = shipment.batch
        for position, offset, event in batch.covered:
            if not shipment.abandoned and batch.assignment.active:
                position.done = max(position.done, offset)
            event.ack()
        self.acknowledged = batch.number
        if not shipment.abandoned:
            for call in batch.delivered:
                call()
        self.journal.state.evict(self.acknowledged)
        self._room.release()
        self._underway -= 1
        if not self._underway:
            self._idle.set()


class Shipment:
    """A batch on its way through the stages."""

    __slots__ = ("abandoned", "batch", "plans", "underway")

    def __init__(self, batch: Batch, plans: Sequence[Plan]) -> None:
        self.batch = batch
        self.plans = plans
        self.underway: list[tuple[list[Change], list[Sent]]] = []
        self.abandoned = False
