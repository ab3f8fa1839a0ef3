"""Intake: which events reach their handler, in which order, and what happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog

from tests.unit.stream.doubles import Event, Stream, assignment, position, settle_down
from worker.stream.batch import Journal, SourceRecord
from worker.stream.intake import MAX_PREPARING, Intake


class Tenure:
    """Enters whatever comes."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.assignment, self.generation = journal, None, 1

    def enter(self, owner: Any) -> None:
        self.assignment = owner


class Lane:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.touched: list[Any] = []

    def touch(self, owner: Any, generation: int | None) -> None:
        self.touched.append((owner, generation))

    async def maybe_flush(self) -> None:
        await asyncio.sleep(0)


class Desk:
    """An intake whose preparations can be slow, one by one."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.lane = journal, Lane()
        self.gate = asyncio.Event()
        self.gate.set()
        self.slow: dict[int, asyncio.Future[str]] = {}
        self.handled: list[tuple[int, str]] = []
        self.records: list[SourceRecord] = []
        self.at = position(assignment())
        tenure: Any = Tenure(journal)
        lane: Any = self.lane
        self.intake: Intake[str] = Intake(tenure, lane, self.gate, self.prepare, self.handle)
        self.tasks = [asyncio.create_task(self.intake.run_prepared())]

    def prepare(self, records: Sequence[SourceRecord]) -> list[str | asyncio.Future[str]]:
        return [self.slow.get(record.offset, "quick") for record in records]

    def handle(self, ready: Sequence[tuple[SourceRecord, str]]) -> None:
        self.handled += [(record.offset, prepared) for record, prepared in ready]
        self.records += [record for record, _ in ready]

    def chunk(self, *offsets: int) -> Event:
        """One event with several records."""
        chunk, *others = self.events(*offsets)
        chunk.value += [other.message for other in others]
        return chunk

    def run(self, *events: Event) -> None:
        self.tasks.append(asyncio.create_task(self.intake.run(Stream(events))))

    def events(self, *offsets: int) -> list[Event]:
        return [Event(self.at, offset) for offset in offsets]


@pytest.fixture
async def desk(journal: Journal) -> AsyncIterator[Desk]:
    found = Desk(journal)
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


async def test_event_is_handled_and_covered(desk: Desk) -> None:
    """An admitted event is handled at once, covered by the batch and left unacknowledged until that is out."""
    events = desk.events(0, 1)
    desk.run(*events)
    await settle_down()
    assert desk.handled == [(0, "quick"), (1, "quick")]
    assert [(at, offset) for at, offset, _ in desk.journal.batch.covered] == [(desk.at, 0), (desk.at, 1)]
    assert [event.acked for event in events] == [0, 0]
    assert desk.lane.touched == [(desk.at.assignment, 1)] * 2


async def test_chunk_is_handled_at_once(desk: Desk) -> None:
    """All records of a chunk are covered by one batch; its event is acknowledged with the last of them."""
    event = desk.chunk(0, 1, 2)
    desk.run(event)
    await settle_down()
    assert [offset for offset, _ in desk.handled] == [0, 1, 2]
    for _, _, chunk in desk.journal.batch.covered:
        assert event.acked == 0
        chunk.ack()
    assert event.acked == 1


async def test_only_what_is_new_in_a_chunk_is_handled(desk: Desk) -> None:
    """Records of a chunk that were seen already are let go, and the chunk still waits for the others."""
    event = desk.chunk(0, 1, 2)
    desk.run(*desk.events(0, 1), event)
    await settle_down()
    assert [offset for offset, _ in desk.handled] == [0, 1, 2]
    assert event.acked == 0
    desk.journal.batch.covered[-1][2].ack()
    assert event.acked == 1


async def test_slow_record_in_a_chunk_holds_up_those_behind_it(desk: Desk) -> None:
    """Within a chunk too the order of admission holds; what comes later waits for all of it."""
    desk.slow[1] = asyncio.get_running_loop().create_future()
    desk.run(desk.chunk(0, 1, 2), *desk.events(3))
    await settle_down()
    assert [offset for offset, _ in desk.handled] == [0]
    desk.slow[1].set_result("slow")
    await settle_down()
    assert desk.handled == [(0, "quick"), (1, "slow"), (2, "quick"), (3, "quick")]


async def test_record_is_as_received(desk: Desk) -> None:
    """Topic, place, broker time, key, value and headers reach the handler untouched, repeated headers too."""
    headers = (("trace", b"1"), ("trace", b"2"), ("empty", None))
    desk.run(Event(desk.at, 0, value=None, key=None, headers=headers, timestamp=-1))
    await settle_down()
    assert desk.records == [SourceRecord("t.queries", 0, 0, -1, None, None, headers)]


async def test_record_without_headers(desk: Desk) -> None:
    """No headers at all are an empty list of headers."""
    desk.run(Event(desk.at, 0, headers=None))
    await settle_down()
    assert desk.records[0].headers == ()


async def test_order_of_admission_holds_behind_a_slow_preparation(desk: Desk) -> None:
    """A quick event behind a slow one waits for it."""
    desk.slow[0] = asyncio.get_running_loop().create_future()
    desk.run(*desk.events(0, 1, 2))
    await settle_down()
    assert desk.handled == []
    assert desk.intake.busy
    desk.slow[0].set_result("slow")
    await settle_down()
    assert desk.handled == [(0, "slow"), (1, "quick"), (2, "quick")]
    assert not desk.intake.busy


async def test_slow_preparations_overlap(desk: Desk) -> None:
    """The agent does not wait for one preparation before it begins the next, so they can share a micro-batch."""
    loop = asyncio.get_running_loop()
    desk.slow = {offset: loop.create_future() for offset in range(3)}
    desk.run(*desk.events(0, 1, 2))
    await settle_down()
    assert desk.at.last == 2
    for offset in (2, 1, 0):
        desk.slow[offset].set_result(f"slow {offset}")
    await settle_down()
    assert desk.handled == [(0, "slow 0"), (1, "slow 1"), (2, "slow 2")]


async def test_preparations_are_bounded(desk: Desk) -> None:
    """A slow encoder holds up the intake instead of filling the memory."""
    desk.slow[0] = asyncio.get_running_loop().create_future()
    desk.run(*desk.events(*range(3 * MAX_PREPARING)))
    for _ in range(20):
        await settle_down()
    assert desk.at.last <= MAX_PREPARING + 1


async def test_duplicate_is_let_go(desk: Desk) -> None:
    """An event seen in this assignment already is acknowledged and not handled again."""
    events = desk.events(0, 0)
    desk.run(*events)
    await settle_down()
    assert desk.handled == [(0, "quick")]
    assert [event.acked for event in events] == [0, 1]


async def test_hole_is_said_once(desk: Desk) -> None:
    """Events behind a hole are let go, to be fetched again; the log tells of the hole, not of each of them."""
    with structlog.testing.capture_logs() as logs:
        desk.run(*desk.events(3, 4, 5))
        await settle_down()
    assert desk.handled == []
    assert [(line["event"], line["offset"]) for line in logs] == [("hole", 3)]


async def test_event_of_an_ended_assignment_is_dropped_after_its_preparation(desk: Desk) -> None:
    """What was being prepared when the partition went elsewhere is applied by the new owner only."""
    desk.slow[0] = asyncio.get_running_loop().create_future()
    (event,) = desk.events(0)
    desk.run(event)
    await settle_down()
    desk.at.assignment._unassign()
    desk.slow[0].set_result("late")
    await settle_down()
    assert (desk.handled, event.acked, desk.journal.batch.covered) == ([], 1, [])


async def test_stopping_admits_nothing_more(desk: Desk) -> None:
    """During a graceful stop what comes is left to the next owner; what was admitted is finished."""
    desk.slow[0] = asyncio.get_running_loop().create_future()
    desk.run(*desk.events(0))
    await settle_down()
    desk.intake.stopping = True
    (late,) = desk.events(1)
    desk.run(late)
    await settle_down()
    assert late.acked == 1
    waiting = asyncio.create_task(desk.intake.prepared())
    desk.slow[0].set_result("slow")
    await asyncio.wait_for(waiting, 1)
    assert desk.handled == [(0, "slow")]


async def test_nothing_is_handled_before_the_gate_opens(desk: Desk) -> None:
    """Before models, budgets and sums are known nothing is decided, and the silence is no hole."""
    desk.gate.clear()
    desk.run(*desk.events(0))
    await settle_down()
    assert desk.handled == []
    assert desk.intake.busy
    desk.gate.set()
    await settle_down()
    assert desk.handled == [(0, "quick")]


async def test_failing_handler_ends_the_agent(desk: Desk) -> None:
    """An unexpected error leaves the agent instead of skipping the event."""

    def broken(ready: Sequence[tuple[SourceRecord, str]]) -> None:
        raise RuntimeError(f"{ready[0][0].offset} {ready[0][1]}")

    desk.intake._handle = broken
    desk.run(*desk.events(0))
    await settle_down()
    with pytest.raises(RuntimeError, match="0 quick"):
        await desk.tasks[-1]
