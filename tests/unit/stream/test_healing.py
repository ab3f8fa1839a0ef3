"""Healing: missing records are fetched again, and what does not come back ends the process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.stream.doubles import QUERIES, Notebook, position
from worker.errors import ExitCode, WorkerMustStop
from worker.observe.records import RecordsLost
from worker.stream import contiguity, healing
from worker.stream.contiguity import Admission, SourcePosition
from worker.stream.healing import ATTEMPTS, GRACE_S, HOLE_S, IDLE_S, SILENT_S, Healer


class Broker:
    """The consumer as the healer uses it: a seek to the first missing record, or to where the log begins."""

    def __init__(self) -> None:
        self.beginning = 0
        self.sought: list[int] = []
        self._thread = self

    async def seek_back(self, at: SourcePosition) -> int | None:
        if not at.live:
            return None
        self.sought.append(max(self.beginning, at.last + 1))
        return self.sought[-1]

    def on_thread(self, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return work


class Ward:
    """A healer over one position, with a clock."""

    def __init__(self, clock: Any, notebook: Notebook) -> None:
        self.clock, self.notebook, self.broker = clock, notebook, Broker()
        self.intake: Any = SimpleNamespace(busy=False, seen_at=clock.now)
        self.position = position()
        self.healer = Healer(lambda: self.broker, {QUERIES: self.intake}, "t.", notebook)

    async def check_after(self, seconds: float) -> None:
        self.clock.now += seconds
        await self.healer.check([self.position])


@pytest.fixture
async def ward(clock: Callable[..., Any], notebook: Notebook) -> Ward:
    return Ward(clock(healing, contiguity), notebook)


class TestHole:
    """A record reached the agent and the one before it did not."""

    async def test_hole_is_sought_after_a_moment(self, ward: Ward) -> None:
        """A hole that lasts is mended by a seek to the first missing record."""
        ward.position.admit(3, 2)
        await ward.check_after(HOLE_S / 2)
        assert ward.broker.sought == []
        await ward.check_after(HOLE_S)
        assert ward.broker.sought == [0]

    async def test_records_have_time_to_arrive(self, ward: Ward) -> None:
        """What is queued in front of the fetched records must drain before the next attempt."""
        ward.position.admit(3, 2)
        await ward.check_after(2 * HOLE_S)
        await ward.check_after(GRACE_S)
        assert len(ward.broker.sought) == 1
        await ward.check_after(2 * HOLE_S)
        assert len(ward.broker.sought) == 2

    async def test_third_failure_ends_the_process(self, ward: Ward) -> None:
        """Three seeks that do not help end the process with 70 and the place of the hole."""
        ward.position.admit(3, 2)
        for _ in range(ATTEMPTS):
            await ward.check_after(GRACE_S + 2 * HOLE_S)
        with pytest.raises(WorkerMustStop, match=r"t\.queries/0 after offset -1 \(hole\)") as caught:
            await ward.check_after(GRACE_S + 2 * HOLE_S)
        assert caught.value.code is ExitCode.HOLE
        assert len(ward.broker.sought) == ATTEMPTS

    async def test_each_hole_has_its_own_attempts(self, ward: Ward) -> None:
        """A hole that closes gives the next one three attempts again."""
        for offset in range(0, 20, 2):
            assert ward.position.admit(offset + 1, offset) is Admission.HOLE
            await ward.check_after(GRACE_S + 2 * HOLE_S)
            assert ward.position.admit(offset, offset - 1) is Admission.ADMIT
            assert ward.position.admit(offset + 1, offset) is Admission.ADMIT
        assert len(ward.broker.sought) == 10

    async def test_ended_assignment_needs_no_seek(self, ward: Ward) -> None:
        """The new owner reads what is missing."""
        ward.position.admit(3, 2)
        ward.position.assignment._unassign()
        await ward.check_after(2 * HOLE_S)
        assert ward.broker.sought == []
        assert ward.notebook.records == []


class TestSilence:
    """Records were handed out and none of them reached the agent."""

    async def test_idle_agent_with_records_outstanding(self, ward: Ward) -> None:
        """Handed out, never seen, and the agent has nothing to do: fetched again."""
        ward.position.chain = (5, 6)
        await ward.check_after(SILENT_S + IDLE_S)
        assert ward.broker.sought == [0]

    @pytest.mark.parametrize("why", ["busy", "just seen", "all seen", "recovering"])
    async def test_silence_that_is_no_hole(self, ward: Ward, why: str) -> None:
        """A busy agent, one that saw something just now, nothing outstanding, or a rebalance: no seek."""
        ward.position.chain = (5, 6)
        ward.clock.now += SILENT_S + IDLE_S
        if why == "busy":
            ward.intake.busy = True
        elif why == "just seen":
            ward.intake.seen_at = ward.clock.now
        elif why == "all seen":
            ward.position.last = 5
        else:
            ward.healer.postpone([ward.position])
        await ward.check_after(0.1)
        assert ward.broker.sought == []


class TestRetention:
    """The log begins behind what is missing."""

    async def test_lost_records_are_counted_and_left_behind(self, ward: Ward) -> None:
        """Nobody can mend what retention took: it is said with place and count, and the stream goes on after it."""
        ward.position.admit(9, 8)
        ward.broker.beginning = 7
        await ward.check_after(2 * HOLE_S)
        assert ward.notebook.records == [RecordsLost("queries", 0, 0, 7)]
        assert (ward.position.last, ward.position.done, ward.position.seeks) == (6, 6, 0)
        assert ward.position.admit(7, 6) is Admission.ADMIT

    async def test_open_records_are_finished_first(self, ward: Ward) -> None:
        """While events are under way the position is not moved over them."""
        ward.position.admit(0, -1)
        ward.position.admit(9, 8)
        ward.broker.beginning = 7
        await ward.check_after(2 * HOLE_S)
        assert ward.notebook.records == []
        ward.position.done = 0
        await ward.check_after(GRACE_S + 2 * HOLE_S)
        assert ward.notebook.records == [RecordsLost("queries", 0, 1, 6)]

    async def test_expired_before_the_first_fetch(self, ward: Ward) -> None:
        """Records that were gone before anything was fetched are told once."""
        ward.position = position(start=8)
        ward.position.expired = 3
        await ward.check_after(0.1)
        await ward.check_after(0.1)
        assert ward.notebook.records == [RecordsLost("queries", 0, 5, 3)]
        assert ward.broker.sought == []
