"""The committer: what is committed, under which generation, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import CommitFailedError, IllegalGenerationError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from tests.unit.stream.doubles import FEEDBACK, QUERIES, assignment, position
from worker.stream import commits
from worker.stream.commits import Consumer, ConsumerThread, Lease

PLACE = TopicPartition(QUERIES, 0)


class Coordinator:
    """aiokafka's group coordinator as far as commits use it."""

    def __init__(self) -> None:
        self.generation = 7
        self._commit_lock = asyncio.Lock()
        self.requests: list[dict[Any, OffsetAndMetadata]] = []
        self.error: Exception | None = None

    async def ensure_coordinator_known(self) -> None:
        await asyncio.sleep(0)

    async def _do_commit_offsets(self, owner: Any, offsets: dict[Any, OffsetAndMetadata]) -> None:
        assert owner.active
        assert self._commit_lock.locked()
        if self.error is not None:
            raise self.error
        self.requests.append(offsets)


class Rig:
    """Our consumer and its thread, over a coordinator and an assignment of the test."""

    def __init__(self) -> None:
        self.assignment = assignment()
        self.coordinator = Coordinator()
        self.at = self.attach(QUERIES)
        self.sought: list[tuple[Any, int]] = []
        self.beginnings = {PLACE: 0}
        subscription = SimpleNamespace(
            subscription=SimpleNamespace(assignment=self.assignment), reassignment_in_progress=False
        )
        self.client: Any = SimpleNamespace(
            _coordinator=self.coordinator,
            _subscription=subscription,
            _fetcher=SimpleNamespace(seek_to=lambda tp, offset: self.sought.append((tp, offset))),
            beginning_offsets=self._beginning_offsets,
        )
        self.thread: Any = ConsumerThread.__new__(ConsumerThread)
        self.thread._consumer, self.thread.generation = self.client, 7
        self.thread.tp_last_committed_at = {}
        self.thread.thread_loop = asyncio.get_running_loop()
        self.consumer: Any = Consumer.__new__(Consumer)
        self.consumer._thread, self.consumer.app = self.thread, SimpleNamespace(consumer_generation_id=7)

    async def _beginning_offsets(self, _: list[Any]) -> dict[Any, int]:
        return self.beginnings

    def attach(self, topic: str) -> Any:
        found = position(self.assignment, topic)
        self.assignment.state_value(found.tp).source_position = found
        return found


@pytest.fixture
async def rig() -> Rig:
    return Rig()


class TestCommit:
    """The timer, a revocation and the stop all land here."""

    async def test_done_is_committed(self, rig: Rig) -> None:
        """The offset after the last event whose effects are acknowledged, of every partition that moved, at once."""
        rig.at.last, rig.at.done, rig.at.chain = 9, 4, (9, 10)
        other = rig.attach(FEEDBACK)
        other.last = other.done = 7
        other.chain = (7, 12)
        assert await rig.consumer.commit()
        assert rig.coordinator.requests == [
            {PLACE: OffsetAndMetadata(5, ""), TopicPartition(FEEDBACK, 0): OffsetAndMetadata(12, "")}
        ]
        assert (rig.at.committed, other.committed) == (5, 12)
        assert rig.consumer.last_commit > 0

    async def test_nothing_new_sends_nothing(self, rig: Rig) -> None:
        """An idle worker does not repeat its commit."""
        await rig.consumer.commit()
        rig.coordinator.requests.clear()
        assert not await rig.consumer.commit()
        assert rig.coordinator.requests == []

    @pytest.mark.parametrize("error", [CommitFailedError(), IllegalGenerationError(), TimeoutError()])
    async def test_failed_commit_is_tried_with_what_is_done_then(self, rig: Rig, error: Exception) -> None:
        """A refusal raises nothing and remembers nothing; the next tick commits the offset of its own time."""
        rig.at.done = 4
        rig.coordinator.error = error
        assert not await rig.consumer.commit()
        assert rig.at.committed == -1
        rig.coordinator.error = None
        rig.at.done = 6
        assert await rig.consumer.commit()
        assert rig.coordinator.requests == [{PLACE: OffsetAndMetadata(7, "")}]

    async def test_other_generation_commits_nothing(self, rig: Rig) -> None:
        """Offsets of an assignment are never sent under the generation of another."""
        rig.at.done = 4
        rig.coordinator.generation = 8
        assert not await rig.consumer.commit()
        assert rig.coordinator.requests == []

    async def test_ended_assignment_commits_nothing(self, rig: Rig) -> None:
        """What was done under an assignment that is over belongs to the new owner's replay."""
        rig.at.done = 4
        wanted = [(rig.at, 5)]
        rig.assignment._unassign()
        assert rig.thread.positions() == []
        assert await rig.thread.commit_positions(wanted) == []

    async def test_positions_of_another_assignment_are_left_out(self, rig: Rig) -> None:
        """A position that outlived its assignment does not get into the commit of the next one."""
        stale = position()
        assert await rig.thread.commit_positions([(stale, 99), (rig.at, 5)]) == [(rig.at, 5)]
        assert rig.coordinator.requests == [{PLACE: OffsetAndMetadata(5, "")}]

    async def test_commits_do_not_overlap(self, rig: Rig) -> None:
        """A second call waits for the first and then finds nothing to do."""
        rig.at.done = 4
        assert await asyncio.gather(rig.consumer.commit(), rig.consumer.force_commit()) == [True, False]
        assert len(rig.coordinator.requests) == 1

    async def test_partition_never_fetched_from_has_no_position(self, rig: Rig) -> None:
        """Nothing is committed for a partition of which nothing was handed out."""
        assert [found.tp.topic for found in rig.thread.positions()] == [QUERIES]


class TestSeek:
    """Fetching again what never arrived."""

    async def test_to_the_first_missing_record(self, rig: Rig) -> None:
        """The offset after the last one admitted."""
        rig.at.last = 4
        assert await rig.thread.seek_back(rig.at) == 5
        assert rig.sought == [(PLACE, 5)]

    async def test_to_where_the_log_begins(self, rig: Rig) -> None:
        """Retention may have taken what is missing."""
        rig.at.last, rig.beginnings[PLACE] = 4, 50
        assert await rig.thread.seek_back(rig.at) == 50
        assert rig.sought == [(PLACE, 50)]

    @pytest.mark.parametrize("when", ["before", "meanwhile", "rebalance"])
    async def test_not_in_a_rebalance(self, rig: Rig, when: str) -> None:
        """A seek after the assignment has ended would move its successor."""
        if when == "before":
            rig.assignment._unassign()
        elif when == "rebalance":
            rig.client._subscription.reassignment_in_progress = True
        else:

            async def ends(_: list[Any]) -> dict[Any, int]:
                rig.assignment._unassign()
                return {PLACE: 0}

            rig.client.beginning_offsets = ends
        assert await rig.thread.seek_back(rig.at) is None
        assert rig.sought == []


class TestLease:
    """Until when the broker surely holds this member for alive."""

    @pytest.fixture(autouse=True)
    def _restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GroupCoordinator, "_do_heartbeat", GroupCoordinator._do_heartbeat)
        monkeypatch.setattr(driver.Transport, "Consumer", driver.Transport.Consumer)
        monkeypatch.setattr(Consumer, "lease", None, raising=False)
        monkeypatch.setattr(Consumer, "on_assignment", None, raising=False)
        monkeypatch.setattr(Consumer, "restore", None, raising=False)

    @pytest.mark.parametrize(("answered", "renewed"), [(True, 1_000.0), (False, 0.0)])
    async def test_dated_by_the_sending_of_an_answered_heartbeat(
        self, monkeypatch: pytest.MonkeyPatch, clock: Callable[..., Any], answered: bool, renewed: float
    ) -> None:
        """A late answer proves only that the member was alive when it asked; no answer proves nothing."""
        moved, lease = clock(commits), Lease(10.0)

        async def slow(_: Any) -> bool:
            moved.now += 6
            return answered

        monkeypatch.setattr(commits, "_original_heartbeat", slow)
        commits.install(lease, _nobody, _nothing)
        coordinator: Any = SimpleNamespace()
        assert await GroupCoordinator._do_heartbeat(coordinator) is answered
        assert lease.renewed == renewed

    async def test_faust_uses_our_consumer(self) -> None:
        """After the installation Faust's transport makes our consumer."""
        commits.install(Lease(10.0), _nobody, _nothing)
        assert driver.Transport.Consumer is Consumer

    async def test_new_lease_is_not_held(self, clock: Callable[..., Any]) -> None:
        """Before the first sign of the broker nothing may be written."""
        clock(commits)
        assert not Lease(10.0).held


class TestMessages:
    """What our consumer adds to Faust's messages, and what it takes out of Faust's book-keeping."""

    def record(self, offset: int = 3, topic: str = QUERIES, **attached: Any) -> Any:
        found: Any = ConsumerRecord(
            topic, 0, offset, 1_234, 1, b"k", b"v", None, 1, 1, (("h", b"1"), ("h", b"2"), ("n", None))
        )
        for name, value in attached.items():
            setattr(found, name, value)
        return found

    async def test_acknowledging_only_empties_faust_s_list(self, rig: Rig) -> None:
        """An acknowledgement says nothing about what may be committed."""
        message = rig.consumer._to_message(TP(QUERIES, 0), self.record(source_position=rig.at))
        rig.consumer._unacked_messages = {message}
        rig.consumer._waiting_for_ack = None
        assert rig.consumer.ack(message)
        assert not rig.consumer.ack(message)
        assert rig.consumer._unacked_messages == set()
        assert rig.at.done == -1


async def _nobody(_: Any) -> None:
    return None


def _nothing(*_: Any) -> None:
    return None
