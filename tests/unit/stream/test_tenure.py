"""Tenure: whose state is in memory, and whether this worker may still write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.stream.doubles import Event, assignment, position
from worker.core.lifecycle import Pending
from worker.errors import ExitCode, WorkerMustStop
from worker.stream import commits
from worker.stream.commits import Lease
from worker.stream.state import State
from worker.stream.tenure import Tenure


class Thread:
    """The consumer thread: what is assigned now, and under which generation."""

    def __init__(self) -> None:
        self.active_assignment: Any = assignment()
        self.generation = self.coordinator_generation = 7


class Office:
    """A tenure over an empty store that counts how often state is made anew."""

    def __init__(self, clock: Any) -> None:
        self.clock, self.thread, self.lease, self.states = clock, Thread(), Lease(10.0), 0
        self.lease.renewed = clock.now
        self.tenure = Tenure(self.lease, lambda: self.thread, self.fresh)  # type: ignore[arg-type, return-value]

    def fresh(self) -> State:
        self.states += 1
        return State(lambda *_: None, lambda *_: None, lambda *_: None)


@pytest.fixture
async def office(clock: Callable[..., Any]) -> Office:
    return Office(clock(commits))


async def test_new_assignment_begins_anew(office: Office) -> None:
    """Nothing of the last assignment stays: neither state nor what was about to leave; Faust may let go of it."""
    tenure, first = office.tenure, office.thread.active_assignment
    tenure.enter(first)
    event = Event(position(first), 0)
    tenure.journal.put_pending(0, b"u\0q", Pending(decision=b"{}"))
    tenure.journal.batch.covered.append((event.message.source_position, 0, event))
    number = tenure.journal.batch.number
    tenure.enter(assignment())
    assert tenure.journal.state.pending.get(0, b"u\0q") is None
    assert (tenure.journal.batch.pending, tenure.journal.batch.covered) == ({}, [])
    assert tenure.journal.batch.number > number
    assert event.acked == 1


async def test_same_assignment_goes_on(office: Office) -> None:
    """Whichever agent comes second finds the state of the first."""
    tenure = office.tenure
    tenure.enter(office.thread.active_assignment)
    tenure.journal.put_pending(0, b"u\0q", Pending(decision=b"{}"))
    states = office.states
    tenure.enter(office.thread.active_assignment)
    assert tenure.journal.state.pending.get(0, b"u\0q") == Pending(decision=b"{}")
    assert office.states == states


async def test_who_depends_on_it_is_told(office: Office) -> None:
    """The sweeper and others begin anew with each assignment, once."""
    told: list[int] = []
    office.tenure.began.append(lambda: told.append(office.tenure.generation or 0))
    office.tenure.enter(office.thread.active_assignment)
    office.tenure.enter(office.thread.active_assignment)
    assert told == [7]


async def test_lanes_are_counted_by_topic(office: Office) -> None:
    """Which share of the traffic a worker serves follows from the partitions that it was assigned."""
    office.tenure.enter(assignment(("t.queries", 0), ("t.queries", 2), ("t.feedback", 0), ("t-arms-changelog", 1)))
    assert office.tenure.lanes("t.queries") == 2
    assert office.tenure.lanes("t.models") == 0


async def test_current_assignment_can_be_entered_without_an_event(office: Office) -> None:
    """An idle worker still expires what it holds; without an assignment there is nothing to enter."""
    assert office.tenure.enter_current()
    assert office.tenure.assignment is office.thread.active_assignment
    office.thread.active_assignment = None
    assert not office.tenure.enter_current()


async def test_ownership_needs_assignment_and_generation(office: Office) -> None:
    """An ended assignment or another generation of the coordinator owns nothing."""
    tenure, owner = office.tenure, office.thread.active_assignment
    tenure.enter(owner)
    assert tenure.owns(owner, tenure.generation)
    office.thread.coordinator_generation = 8
    assert not tenure.owns(owner, tenure.generation)
    office.thread.coordinator_generation = 7
    owner._unassign()
    assert not tenure.owns(owner, tenure.generation)


async def test_lease_ends_before_the_session(office: Office) -> None:
    """Doubt begins well before the broker hands the partitions on, and ends with the next heartbeat."""
    office.clock.now += 7.9
    assert not office.tenure.doubtful
    office.clock.now += 0.2
    assert office.tenure.doubtful
    office.lease.renewed = office.clock.now
    assert not office.tenure.doubtful


async def test_long_pause_is_noticed_before_anything_is_applied(office: Office) -> None:
    """The first event after a long pause does not touch the state of a worker that may be a zombie."""

    def paused() -> None:
        raise WorkerMustStop(ExitCode.LEASE_LOST, "the process stood still")

    office.tenure.check_pause = paused
    with pytest.raises(WorkerMustStop):
        office.tenure.enter(office.thread.active_assignment)
    assert office.tenure.assignment is None
