"""The lane: the order in which a batch leaves, and what a lost or doubtful owner does with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from tests.unit.stream.doubles import Event, ManualDelivery, Owner, assignment, position, settle_down
from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.errors import ExitCode, WorkerMustStop
from worker.stream import lane as lanes
from worker.stream.batch import Journal, Output
from worker.stream.lane import Lane
from worker.stream.state import SpendKey
from worker.stream.tables import Tables

PENDING, SPEND, ARMS, OUT = "t-pending-changelog", "t-spend-changelog", "t-arms-changelog", "t.decisions"
SHARD = ShardKey(0, "fp", "small")


class Bench:
    """A lane with its tasks running, one source position, and a broker that waits for the test."""

    def __init__(self, journal: Journal, tables: Tables) -> None:
        self.journal, self.tables = journal, tables
        self.delivery, self.owner = ManualDelivery(), Owner()
        self.lane = Lane(journal, tables, self.delivery, self.owner)
        self.assignment = assignment()
        self.position = position(self.assignment)
        self.told: list[int] = []
        self.tasks = [asyncio.create_task(work) for work in self._services()]

    def _services(self) -> list[Coroutine[Any, Any, None]]:
        return [self.lane.run_stage(0), self.lane.run_stage(1), self.lane.run_finisher()]

    def decide(self, offset: int) -> Event:
        """What an agent does with one query: state, output, cover, touch."""
        event = Event(self.position, offset)
        self.journal.put_pending(0, b"u\0q%d" % offset, Pending(decision=b"{}", offset=offset))
        self.journal.put_spend(0, SpendKey("u", 0), Spend(queries=offset + 1))
        self.journal.emit(Output(OUT, 0, b"u", b"%d" % offset))
        self.journal.on_delivered(lambda: self.told.append(offset))
        self.journal.batch.covered.append((self.position, offset, event))
        self.lane.touch(self.assignment, 1)
        return event

    async def flush(self) -> None:
        await self.lane.flush()
        await settle_down()

    async def acknowledge(self, *topics: str) -> None:
        self.delivery.acknowledge(*topics)
        await settle_down()

    async def failure(self) -> BaseException | None:
        """What the first task to end ended with."""
        done, _ = await asyncio.wait(self.tasks, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        return next((task.exception() for task in done), None)


@pytest.fixture
async def bench(journal: Journal, tables: Tables) -> AsyncIterator[Bench]:
    found = Bench(journal, tables)
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


class TestStages:
    """Pending first, then everything else, then the store, then done."""

    async def test_effects_wait_for_pending(self, bench: Bench) -> None:
        """Nothing else is sent before every pending record is acknowledged."""
        bench.decide(0)
        await bench.flush()
        assert bench.delivery.topics == [PENDING]
        await bench.acknowledge(PENDING)
        assert bench.delivery.topics == [PENDING, SPEND, OUT]

    async def test_store_follows_the_acknowledgement(self, bench: Bench) -> None:
        """Each table reaches the local store only when the broker has its records."""
        bench.decide(0)
        await bench.flush()
        assert bench.tables.load_pending(0, b"u\0q0") is None
        await bench.acknowledge(PENDING)
        assert bench.tables.load_pending(0, b"u\0q0") is not None
        assert bench.tables.load_spend(0, SpendKey("u", 0)) is None
        await bench.acknowledge(SPEND)
        await bench.acknowledge(OUT)
        assert bench.tables.load_spend(0, SpendKey("u", 0)) == Spend(queries=1)

    async def test_done_comes_last(self, bench: Bench) -> None:
        """An event is done, acknowledged and reported only when its decision is at the broker."""
        event = bench.decide(0)
        await bench.flush()
        await bench.acknowledge(PENDING)
        await bench.acknowledge(SPEND)
        assert (bench.position.done, event.acked, bench.told) == (-1, 0, [])
        await bench.acknowledge(OUT)
        assert (bench.position.done, event.acked, bench.told) == (0, 1, [0])
        assert bench.lane.acknowledged == 1

    async def test_batch_without_state_is_done_when_it_is_out(self, bench: Bench) -> None:
        """A dead letter alone passes the empty first stage and still waits for its acknowledgement."""
        bench.journal.emit(Output("t.dead-letters", 0, None, b"bad"))
        bench.journal.batch.covered.append((bench.position, 3, Event(bench.position, 3)))
        bench.lane.touch(bench.assignment, 1)
        await bench.flush()
        assert bench.delivery.topics == ["t.dead-letters"]
        assert bench.position.done == -1
        await bench.acknowledge()
        assert bench.position.done == 3


class TestOrder:
    """Batches follow each other and none overtakes."""

    async def test_next_batch_enters_while_the_first_is_under_way(self, bench: Bench) -> None:
        """The second batch sends its pending records while the first one's effects are open."""
        bench.decide(0)
        await bench.flush()
        await bench.acknowledge(PENDING)
        bench.decide(1)
        await bench.flush()
        assert bench.delivery.topics == [PENDING, SPEND, OUT, PENDING]

    async def test_later_effects_wait_for_their_own_pending(self, bench: Bench) -> None:
        """Whatever the broker acknowledges first, the second batch's effects follow its own pending."""
        for offset in (0, 1):
            bench.decide(offset)
            await bench.flush()
        bench.delivery.acknowledge_one(bench.delivery.sent[1])
        await settle_down()
        assert bench.delivery.topics == [PENDING, PENDING]

    async def test_done_never_overtakes(self, bench: Bench) -> None:
        """A later batch that is complete first does not move done past the one before it."""
        for offset in (0, 1):
            bench.decide(offset)
            await bench.flush()
            await bench.acknowledge(PENDING)
        for sending in bench.delivery.sent:
            if sending.records[0].value != b"0":
                bench.delivery.acknowledge_one(sending)
        await settle_down()
        assert bench.position.done == -1
        await bench.acknowledge()
        assert (bench.position.done, bench.told) == (1, [0, 1])

    async def test_values_are_those_of_the_moment_it_leaves(self, bench: Bench) -> None:
        """What changes after a batch has left goes with the next one, not into the first."""
        bench.decide(0)
        await bench.flush()
        bench.decide(1)
        await bench.acknowledge(PENDING)
        spend = next(sending for sending in bench.delivery.sent if sending.topic == SPEND)
        assert spend.records[0].value == b"[1,0,0,0,1,0.0,0.0,-1,-1]"


class TestShards:
    """Shards are large and leave rarely."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lanes, "SHARDS_EVERY_S", 0.05)

    def learn(self, bench: Bench, offset: int) -> Event:
        bench.journal.put_shard(SHARD, Shard(ArmStatistics.zeros(3)))
        return bench.decide(offset)

    async def out(self, bench: Bench) -> None:
        await bench.flush()
        await bench.acknowledge()
        await bench.acknowledge()

    async def test_what_a_held_shard_contains_is_not_done(self, bench: Bench) -> None:
        """A batch right after one with shards leaves without them, and its events stay undone until they have left."""
        self.learn(bench, 0)
        await self.out(bench)
        assert (bench.delivery.topics.count(ARMS), bench.position.done) == (1, 0)
        event = self.learn(bench, 1)
        await self.out(bench)
        assert bench.delivery.topics.count(ARMS) == 1
        assert bench.told == [0, 1]
        assert (bench.position.done, event.acked) == (0, 0)
        await asyncio.sleep(lanes.SHARDS_EVERY_S)
        await self.out(bench)
        assert bench.delivery.topics.count(ARMS) == 2
        assert (bench.position.done, event.acked) == (1, 1)

    async def test_events_that_taught_nothing_wait_with_those_that_did(self, bench: Bench) -> None:
        """Done is a mark in the log: nothing behind an event whose shard is held may pass it."""
        for offset in (0, 1):
            self.learn(bench, offset)
            await self.out(bench)
        bench.decide(2)
        await self.out(bench)
        assert bench.position.done == 0

    async def test_held_shard_leaves_by_itself(self, bench: Bench) -> None:
        """Without further events a timer sends what is held."""
        bench.tasks.append(asyncio.create_task(bench.lane.run_flusher()))
        for offset in (0, 1):
            self.learn(bench, offset)
            await self.out(bench)
        assert bench.position.done == 0
        await asyncio.sleep(4 * lanes.SHARDS_EVERY_S)
        await bench.acknowledge()
        await bench.acknowledge()
        assert bench.position.done == 1

    async def test_held_events_do_not_fill_a_batch(self, bench: Bench) -> None:
        """A batch is full by what it changes, not by what it waits for."""
        for offset in (0, 1):
            self.learn(bench, offset)
            await self.out(bench)
        assert len(bench.journal.batch.covered) - bench.journal.batch.held == 0

    async def test_graceful_stop_sends_them(self, bench: Bench) -> None:
        """Draining does not wait for the shards to become due."""
        for offset in (0, 1):
            self.learn(bench, offset)
            await self.out(bench)
        drained = asyncio.create_task(bench.lane.drained())
        for _ in range(3):
            await settle_down()
            await bench.acknowledge()
        await asyncio.wait_for(drained, 1)
        assert bench.position.done == 1


class TestOwnership:
    """Before every send the worker must still own the partition."""

    async def test_lost_batch_is_dropped_without_done(self, bench: Bench) -> None:
        """Whoever owns the partition now replays it: nothing is sent or marked, Faust may let go of the events."""
        bench.owner.lost = True
        event = bench.decide(0)
        await bench.flush()
        assert bench.delivery.sent == []
        assert (bench.position.done, event.acked, bench.told) == (-1, 1, [])

    async def test_batch_lost_between_the_stages_is_not_done(self, bench: Bench) -> None:
        """Pending is out and the ownership gone: the effects stay unsent and the event undone."""
        event = bench.decide(0)
        await bench.flush()
        bench.owner.lost = True
        await bench.acknowledge(PENDING)
        assert bench.delivery.topics == [PENDING]
        assert (bench.position.done, event.acked) == (-1, 1)

    async def test_effects_never_go_without_their_pending(self, bench: Bench) -> None:
        """A batch whose first stage was dropped stays dropped, even if the owner seems to be back."""
        answers = iter([False, True])
        bench.owner.owns = lambda *_: next(answers)  # type: ignore[method-assign]
        bench.decide(0)
        await bench.flush()
        assert bench.delivery.sent == []
        assert bench.position.done == -1

    async def test_ended_assignment_stores_nothing(self, bench: Bench) -> None:
        """An acknowledgement that comes after the assignment has ended reaches neither store nor done."""
        bench.decide(0)
        await bench.flush()
        bench.assignment._unassign()
        await bench.acknowledge()
        await bench.acknowledge()
        assert bench.tables.load_pending(0, b"u\0q0") is None
        assert bench.position.done == -1

    async def test_doubt_waits(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a recent heartbeat nothing leaves; with the next one it does."""
        monkeypatch.setattr(lanes, "_DOUBT_S", 0.001)
        bench.owner.doubtful = True
        bench.decide(0)
        await bench.flush()
        await asyncio.sleep(0.01)
        await settle_down()
        assert bench.delivery.sent == []
        bench.owner.doubtful = False
        await asyncio.sleep(0.01)
        await settle_down()
        assert bench.delivery.topics == [PENDING]

    async def test_doubt_ends_with_the_assignment(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch in doubt is dropped when the assignment is lost meanwhile."""
        monkeypatch.setattr(lanes, "_DOUBT_S", 0.001)
        bench.owner.doubtful = True
        event = bench.decide(0)
        await bench.flush()
        bench.owner.lost = True
        await asyncio.sleep(0.01)
        await settle_down()
        assert (bench.delivery.sent, event.acked, bench.position.done) == ([], 1, -1)


async def test_failed_send_stops_the_worker(bench: Bench) -> None:
    """A send that fails for good ends the process with 72, before anything is marked as done."""
    bench.decide(0)
    await bench.flush()
    bench.delivery.fail(RuntimeError("record too large"))
    error = await bench.failure()
    assert isinstance(error, WorkerMustStop)
    assert error.code is ExitCode.SEND_FAILED
    assert "record too large" in str(error)
    assert bench.position.done == -1


class TestFilling:
    """When a batch leaves."""

    async def test_full_batch_leaves_at_once(self, bench: Bench) -> None:
        """The batch goes when it covers so many events, and not one earlier."""
        for offset in range(lanes.MAX_EVENTS):
            assert bench.delivery.sent == []
            bench.decide(offset)
            await bench.lane.maybe_flush()
            await settle_down()
        assert len(bench.delivery.sent[0].records) == lanes.MAX_EVENTS

    async def test_batch_that_does_not_fill_leaves_soon(self, bench: Bench) -> None:
        """The flusher sends what there is after a few milliseconds."""
        bench.tasks.append(asyncio.create_task(bench.lane.run_flusher()))
        bench.decide(0)
        await asyncio.sleep(10 * lanes.LINGER_S)
        await settle_down()
        assert bench.delivery.topics == [PENDING]

    async def test_empty_batch_does_not_leave(self, bench: Bench) -> None:
        """Flushing nothing sends nothing, turns nothing and takes no room."""
        for _ in range(2 * lanes.MAX_BATCHES_UNDERWAY):
            await bench.flush()
        assert bench.delivery.sent == []
        assert bench.journal.batch.number == 1

    async def test_agents_wait_while_too_much_is_under_way(self, bench: Bench) -> None:
        """A slow broker holds up the agents instead of filling the memory."""
        for offset in range(lanes.MAX_BATCHES_UNDERWAY):
            bench.decide(offset)
            await bench.flush()
        bench.decide(999)
        blocked = asyncio.create_task(bench.lane.flush())
        await settle_down()
        assert not blocked.done()
        for _ in range(3):
            await bench.acknowledge()
        await asyncio.wait_for(blocked, 1)

    async def test_drained_waits_for_everything(self, bench: Bench) -> None:
        """A graceful stop sends the current batch and returns when nothing is under way."""
        bench.decide(0)
        drained = asyncio.create_task(bench.lane.drained())
        await settle_down()
        assert bench.delivery.topics == [PENDING]
        assert not drained.done()
        await bench.acknowledge()
        await bench.acknowledge()
        await asyncio.wait_for(drained, 1)
        assert bench.position.done == 0
