"""Draining: how fetched records are cut into chunks, queued for agents and written to recovering tables."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from tests.unit.stream.doubles import FEEDBACK, QUERIES
from worker.stream.commits import Consumer
from worker.stream.drain import CHUNK, Chunk, Feeder, chunks, restore

LOG = TP("t-pending-changelog", 0)


def fetched(count: int, start: int = 0, **attached: Any) -> list[Any]:
    return [SimpleNamespace(offset=start + number, **attached) for number in range(count)]


class TestChunks:
    """How much of a partition is handed over at a time."""

    def test_partitions_take_turns(self) -> None:
        """A long partition does not keep a short one of another topic waiting."""
        turns = [
            (tp.topic, [record.offset for record in part])
            for tp, part in chunks({TP(QUERIES, 0): fetched(2 * CHUNK + 1), TP(FEEDBACK, 0): fetched(1)})
        ]
        assert [(topic, len(part)) for topic, part in turns] == [
            (QUERIES, CHUNK), (FEEDBACK, 1), (QUERIES, CHUNK), (QUERIES, 1),
        ]  # fmt: skip
        assert [offset for topic, part in turns if topic == QUERIES for offset in part] == list(range(2 * CHUNK + 1))

    def test_partitions_share_a_chunk(self) -> None:
        """Few records of several partitions are one chunk; of many, each partition gets its part of every chunk."""
        ((last, together),) = chunks({TP(QUERIES, 0): fetched(2), TP(QUERIES, 1): fetched(1)})
        assert (last, [record.offset for record in together]) == (TP(QUERIES, 1), [0, 1, 0])
        half = CHUNK // 2
        turns = list(chunks({TP(QUERIES, 0): fetched(CHUNK), TP(QUERIES, 1): fetched(half)}))
        assert [[record.offset for record in part] for _, part in turns] == [
            [*range(half), *range(half)], list(range(half, CHUNK)),
        ]  # fmt: skip
        assert [tp.partition for tp, _ in turns] == [1, 0]

    def test_nothing_fetched(self) -> None:
        """An empty fetch has no chunks."""
        assert list(chunks({})) == []

    def test_event_is_acknowledged_once_with_the_last_record(self) -> None:
        """Faust waits for a whole chunk, not for a part of it."""
        acked: list[int] = []
        chunk = Chunk(SimpleNamespace(value=fetched(3), ack=lambda: acked.append(1)))
        for expected in ([], [], [1]):
            chunk.ack()
            assert acked == expected


class Feed:
    """Enough of a Faust consumer: one agent's queue, and which partitions are not fetched."""

    def __init__(self, maxsize: int) -> None:
        self.queue: Any = ThrowableQueue(maxsize=maxsize, flow_control=FlowControlEvent())
        channel = SimpleNamespace(queue=self.queue)
        self.app = SimpleNamespace(
            topics=SimpleNamespace(_tp_index={TP(QUERIES, 0): [channel]}),
            create_event=lambda _key, value, _headers, message: SimpleNamespace(value=value, message=message),
            consumer_generation_id=1, tables=SimpleNamespace(recovery=None),
        )  # fmt: skip
        self.flow_active, self._buffered_partitions = True, set[Any]()
        self._active = {TP(QUERIES, 0), TP(QUERIES, 1), TP(FEEDBACK, 0)}

    def _to_message(self, tp: Any, record: Any) -> Any:
        return SimpleNamespace(tp=tp, offset=record.offset, references=0, incref=lambda: None)

    def _get_active_partitions(self) -> set[Any]:
        return self._active

    def on_buffer_full(self, tp: Any) -> None:
        self._active.discard(tp)
        self._buffered_partitions.add(tp)

    def on_buffer_drop(self, tp: Any) -> None:
        self._buffered_partitions.discard(tp)
        self._active.add(tp)

    async def drain(self, found: Any, active: set[Any]) -> list[int]:
        """What reaches the agent of the queries."""
        await Consumer._drain(self, Feeder(self), found, active)  # type: ignore[arg-type]
        return [record.offset for chunk in self.queue._queue for record in chunk.value]


class TestFeeding:
    """The queue of an agent."""

    async def test_chunk_is_one_event(self) -> None:
        """Records travel together, under the message of the last of them."""
        feed = Feed(10)
        Feeder(feed).feed(TP(QUERIES, 0), fetched(3))
        event = feed.queue.get_nowait()
        assert ([record.offset for record in event.value], event.message.offset) == ([0, 1, 2], 2)

    async def test_long_queue_pauses_its_topic_until_it_is_short(self) -> None:
        """Nothing more of a topic is fetched while its agent is far behind, and again when it has caught up."""
        feed = Feed(10)
        feeder = Feeder(feed)
        for _ in range(10):
            feeder.feed(TP(QUERIES, 0), fetched(1))
        assert feed._active == {TP(FEEDBACK, 0)}
        while not feed.queue.empty():
            feed.queue.get_nowait()
        feed.queue.maybe_endorse_pressure_drop()
        assert (len(feed._active), feed._buffered_partitions) == (3, set())

    async def test_records_of_sources_reach_the_agent_even_if_read_before(self) -> None:
        """What is fetched again passes: only the position of the source judges it."""
        feed, tp = Feed(10), TP(QUERIES, 0)
        again = [*fetched(2, source_position="here"), *fetched(2, source_position="here")]
        assert await feed.drain({tp: again}, {tp}) == [0, 1, 0, 1]

    async def test_partition_that_was_paused_meanwhile_is_left_out(self) -> None:
        """Records of a partition that is no longer active are not handed over."""
        feed, tp = Feed(10), TP(QUERIES, 0)
        assert await feed.drain({tp: fetched(1, source_position="here")}, set()) == []

    @pytest.mark.parametrize("change", ["flow", "generation"])
    async def test_a_rebalance_ends_it(self, change: str) -> None:
        """After the flow stops or the generation changes nothing of the old fetch is handed over."""
        feed, tp = Feed(10), TP(QUERIES, 0)

        def message(at: Any, record: Any) -> Any:
            feed.flow_active = change != "flow"
            feed.app.consumer_generation_id = 2 if change == "generation" else 1
            return Feed._to_message(feed, at, record)

        feed._to_message = message  # type: ignore[method-assign]
        found = {tp: fetched(2 * CHUNK, source_position="here")}
        assert len(await feed.drain(found, {tp})) == CHUNK


class Recovery:
    """Faust's recovery of one partition, whose log ends at a highwater mark."""

    def __init__(self, highwater: int, offset: int = -1) -> None:
        self.in_recovery = True
        self.active_tps = {LOG}
        self.active_offsets = Counter({LOG: offset})
        self.ended = 0
        self.signal_recovery_end: Any = SimpleNamespace(set=self._end, clear=lambda: None)
        self._highwater = highwater

    def _end(self) -> None:
        self.ended += 1

    def need_recovery(self) -> bool:
        return self.active_offsets[LOG] < self._highwater


class TestRestoring:
    """Records of changelogs that are being recovered."""

    def restored(self, recovery: Recovery, records: Sequence[Any], tp: Any = LOG) -> list[int]:
        written: list[int] = []
        restore(recovery, lambda _, found: written.extend(r.offset for r in found), tp, records)
        return written

    def test_last_record_ends_the_recovery(self) -> None:
        """The recovery ends when everything up to the highwater mark is in the store, and not before."""
        recovery = Recovery(highwater=3)
        assert self.restored(recovery, fetched(3)) == [0, 1, 2]
        assert recovery.ended == 0
        assert self.restored(recovery, fetched(1, start=3)) == [3]
        assert recovery.ended == 1

    async def test_next_recovery_is_not_ended_by_the_last(self) -> None:
        """The end wakes who waits for it and leaves no mark for a recovery that follows at once."""
        recovery = Recovery(highwater=0)
        recovery.signal_recovery_end = asyncio.Event()
        waiting = asyncio.create_task(recovery.signal_recovery_end.wait())
        await asyncio.sleep(0)
        self.restored(recovery, fetched(1))
        assert await asyncio.wait_for(waiting, 1)
        assert not recovery.signal_recovery_end.is_set()

    def test_what_the_store_has_is_not_written_again(self) -> None:
        """Records at or below the offset reached are skipped."""
        assert self.restored(Recovery(highwater=5, offset=2), fetched(4)) == [3]

    def test_nothing_is_written_after_the_recovery(self) -> None:
        """A record that comes late must not replace what the agents have written since."""
        recovery = Recovery(highwater=0)
        recovery.in_recovery = False
        assert self.restored(recovery, fetched(1)) == []

    def test_partition_of_another_worker_is_left_alone(self) -> None:
        """Records of a changelog that is not assigned here are dropped."""
        assert self.restored(Recovery(highwater=0), fetched(1), TP("t-pending-changelog", 1)) == []
