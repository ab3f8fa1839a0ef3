"""Commits: our own committer, in place of Faust's acknowledgement book-keeping for source topics.

Faust's commit arithmetic crawls or stalls after a rebalance (faust-streaming/faust
#596, #606, #175). Here a commit is `SourcePosition.commit_position`, sent only
under the generation that assigned the partition. The lease, dated by the time a
successful heartbeat was SENT, tells whether this process may still write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import chain
from typing import Any, ClassVar

import aiokafka.errors
import structlog
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import notify

from worker.errors import ExitCode, WorkerMustStop
from worker.stream import contiguity, exits
from worker.stream.contiguity import SourcePosition
from worker.stream.drain import Feeder, Restore, chunks, restore

logger = structlog.get_logger(__name__)

_CALL_TIMEOUT_S = 5.0
_LEASE_SHARE = 0.8  # of the session timeout: the broker hands partitions on only after all of it
# A fetch that waits for new records leaves out the partitions whose records were not yet taken up then, and
# blocks the next one. Faust's 1.5 s let a backlog of queries stand still while there was no feedback.
_FETCH_WAIT_MS = 100

_original_heartbeat = GroupCoordinator._do_heartbeat


class Lease:
    """Until when the group coordinator surely holds this member for alive."""

    def __init__(self, session_timeout_s: float) -> None:
        self.length_s = session_timeout_s * _LEASE_SHARE
        self.renewed = 0.0

    @property
    def held(self) -> bool:
        """Whether the last successful heartbeat was sent recently enough."""
        return time.monotonic() - self.renewed < self.length_s


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc] # Faust is untyped here
    """The thread that owns the aiokafka consumer; everything here runs on its loop unless said."""

    generation: int | None = None

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust reads aborted records otherwise
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Note the generation before Faust hands out anything of it."""
        self.generation = generation_id
        self.consumer.lease.renewed = time.monotonic()
        await type(self.consumer).on_assignment(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Any:
        """Faust's, and what the commits said becomes the beginning of each source partition."""
        assignment = self.active_assignment
        found = await super().seek_to_committed()
        await self.call_thread(self._begin, assignment, found)
        return found

    async def _begin(self, assignment: Any, committed: Any) -> None:
        if assignment is None or not assignment.active:
            return
        for tp, offset in committed.items():
            if offset and contiguity.is_source(tp.topic):
                contiguity.begin_at(tp, assignment.state_value(tp), offset)

    @property
    def active_assignment(self) -> Any:
        """The active assignment object, or None. Any thread."""
        subscription = self._consumer and self._consumer._subscription.subscription
        assignment = subscription and subscription.assignment
        return assignment if assignment is not None and assignment.active else None

    @property
    def coordinator_generation(self) -> int:
        """The generation that the coordinator knows now. Any thread."""
        return int(self._consumer._coordinator.generation)

    def positions(self) -> list[SourcePosition]:
        """The source partitions of the active assignment that were fetched from. Any thread."""
        assignment = self.active_assignment
        if assignment is None:
            return []
        states = list(assignment._tp_state.values())
        return [state.source_position for state in states if hasattr(state, "source_position")]

    async def commit_positions(self, wanted: list[tuple[SourcePosition, int]]) -> list[tuple[SourcePosition, int]]:
        """Commit under the generation that assigned these partitions; what was committed."""
        coordinator = self._consumer._coordinator
        assignment = self._consumer._subscription.subscription.assignment
        await asyncio.wait_for(coordinator.ensure_coordinator_known(), _CALL_TIMEOUT_S)
        async with coordinator._commit_lock:
            if assignment is None or not assignment.active or coordinator.generation != self.generation:
                return []
            ours = [(position, offset) for position, offset in wanted if position.assignment is assignment]
            offsets = {position.tp: OffsetAndMetadata(offset, "") for position, offset in ours}
            if offsets:
                # The request is built before its first await, so it cannot carry a later generation.
                await asyncio.wait_for(coordinator._do_commit_offsets(assignment, offsets), _CALL_TIMEOUT_S)
            return ours

    async def seek_back(self, position: SourcePosition) -> int | None:
        """Fetch again what was handed out but never arrived; where the log now starts, or None."""
        if not position.live or self._consumer._subscription.reassignment_in_progress:
            return None
        beginnings = await asyncio.wait_for(self._consumer.beginning_offsets([position.tp]), _CALL_TIMEOUT_S)
        if not position.assignment.active:  # it may have ended while the broker answered
            return None
        at: int = max(beginnings[position.tp], position.last + 1)
        self._consumer._fetcher.seek_to(position.tp, at)
        return at

    async def broker_offsets(self, partitions: list[Any]) -> dict[Any, tuple[int, int]]:
        """Committed and end (last stable) offset of each partition, as the broker says."""
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
        ends = await asyncio.wait_for(self._consumer.end_offsets(wanted), _CALL_TIMEOUT_S)
        committed = {}
        for tp in wanted:
            committed[tp] = await asyncio.wait_for(self._consumer.committed(tp), _CALL_TIMEOUT_S)
        unread = [tp for tp, offset in committed.items() if offset is None]
        if unread:  # before the first commit a group begins where the log begins
            committed |= await asyncio.wait_for(self._consumer.beginning_offsets(unread), _CALL_TIMEOUT_S)
        return {tp: (committed[tp], ends[tp]) for tp in wanted}


class Consumer(driver.Consumer):  # type: ignore[misc] # Faust is untyped here
    """Replaces Faust's `_acked`, `_gap`, `_read_offset` and `_committed_offset` for source topics."""

    lease: ClassVar[Lease]
    on_assignment: ClassVar[Callable[[Any], Awaitable[None]]]
    restore: ClassVar[Restore]
    _committing: asyncio.Lock | None = None
    last_commit = 0.0

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def ack(self, message: Any) -> bool:
        """Only serves Faust's wait for empty streams; progress is `SourcePosition.done`."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)
        return True

    def on_thread(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run on the consumer thread's loop, past its method queue, whose two workers can be blocked."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._thread.thread_loop))

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002 - Faust's
        """Commit what is done. Every caller in Faust lands here: timer, revoke, stop."""
        if self._committing is None:
            self._committing = asyncio.Lock()
        async with self._committing:
            wanted = [(position, position.commit_position) for position in self._thread.positions()]
            wanted = [(position, offset) for position, offset in wanted if offset > position.committed]
            if not wanted:
                return False
            try:
                committed = await self.on_thread(self._thread.commit_positions(wanted))
            except (aiokafka.errors.KafkaError, TimeoutError) as error:
                # The next tick or the next owner decides: never retry old offsets under a new generation.
                logger.warning("commit failed", error=type(error).__name__)
                return False
            for position, offset in committed:
                position.committed = offset
                self._thread.tp_last_committed_at[position.tp] = time.monotonic()
            if committed:
                self.last_commit = time.time()
            return bool(committed)

    force_commit = commit

    async def _drain_messages(self, fetcher: Any) -> None:
        """Replaces Faust's loop: see `worker.stream.drain`. What is read again is judged by `SourcePosition`."""
        feeder = Feeder(self)
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                fetched, active = await self._wait_next_records(timeout=1.0)
                await self.sleep(0)
                if self.should_stop:
                    break
                await self._drain(feeder, fetched or {}, active)
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise
        except Exception as error:  # noqa: BLE001 - Faust lets its fetcher crash alone, and the worker lives on deaf
            if not self.app.should_stop:
                exits.end("fetcher", WorkerMustStop(ExitCode.STALLED, f"records cannot be read: {error!r}"))

    def holds_back(self, tp: Any) -> bool:
        """Whether a partition is not fetched because its agent's queue is long."""
        return tp in self._buffered_partitions

    def has_fetched(self, tp: Any) -> bool:
        """Whether records of a partition lie in the fetcher, which hands out all it has of one before the next."""
        return tp in self._thread._consumer._fetcher._records

    async def _drain(self, feeder: Feeder, fetched: Mapping[Any, Any], active: Any) -> None:
        generation, recovery = self.app.consumer_generation_id, self.app.tables.recovery
        changelogs: dict[Any, Any] = {}
        sources: dict[Any, Any] = {}
        for partition, records in fetched.items():
            tp = TP(*partition)  # aiokafka has a type of its own
            if tp in active or tp in self._buffered_partitions:
                (sources if hasattr(records[0], "source_position") else changelogs)[tp] = records
        for tp, records in chain(changelogs.items(), chunks(sources)):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return  # the next owner reads them
            if tp in changelogs:  # in one piece: nobody waits for a turn while tables recover
                restore(recovery, type(self).restore, tp, records)
            else:
                feeder.feed(tp, records)
            await asyncio.sleep(0)


def install(lease: Lease, on_assignment: Callable[[Any], Awaitable[None]], restore: Restore) -> None:
    """Make Faust's transport use this consumer, and date the lease by the heartbeats that were answered.

    `on_assignment` is awaited on the consumer thread with each new assignment, before anything of it is read;
    `restore` writes changelog records to the store.
    """
    Consumer.lease = lease
    Consumer.on_assignment = on_assignment
    Consumer.restore = staticmethod(restore)
    driver.Transport.Consumer = Consumer

    async def heartbeat(self: GroupCoordinator) -> Any:
        sent = time.monotonic()
        answered = await _original_heartbeat(self)
        if answered:
            lease.renewed = sent
        return answered

    GroupCoordinator._do_heartbeat = heartbeat
