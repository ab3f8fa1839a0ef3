"""The watchdog: stall, crawl and pause end the process; an outage, a rebalance and idleness do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition

from tests.unit.stream.doubles import FEEDBACK, QUERIES, Notebook, assignment, position
from worker.errors import ExitCode, WorkerMustStop
from worker.observe.records import Committed, Lag
from worker.stream import contiguity, healing, progress, watchdog
from worker.stream.healing import Healer
from worker.stream.progress import Progress
from worker.stream.watchdog import OVERDUE_S, STALL_S, Watchdog

TP = TopicPartition(QUERIES, 0)
SESSION_S = 10.0


class Consumer:
    """Our consumer as the watchdog uses it, over a broker whose answers the test writes."""

    def __init__(self) -> None:
        self.offsets: dict[Any, tuple[int, int]] | Exception = {TP: (0, 0)}
        self.found = [position(assignment())]
        self.generation = 1
        self.last_commit = 0.0
        self.sought = 0
        self.held_back: set[Any] = set()
        self.fetched: set[Any] = set()
        self._thread = self

    def holds_back(self, tp: Any) -> bool:
        return tp in self.held_back

    def has_fetched(self, tp: Any) -> bool:
        return tp in self.fetched

    def assignment(self) -> list[Any]:
        return list(self.offsets) if isinstance(self.offsets, dict) else [TP]

    def positions(self) -> list[Any]:
        return self.found

    def on_thread(self, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return work

    async def broker_offsets(self, wanted: list[Any]) -> dict[Any, tuple[int, int]]:
        if isinstance(self.offsets, Exception):
            raise self.offsets
        return {tp: self.offsets[tp] for tp in wanted}

    async def seek_back(self, at: Any) -> int:
        self.sought += 1
        return int(at.last + 1)


async def never(wanted: list[Any]) -> dict[Any, tuple[int, int]]:
    del wanted
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class Post:
    """A watchdog with a clock and a consumer to watch."""

    def __init__(self, clock: Any, notebook: Notebook) -> None:
        self.clock, self.notebook, self.consumer = clock, notebook, Consumer()
        self.recovered = True
        self.patience = STALL_S
        self.progress = Progress()
        self.intake: Any = SimpleNamespace(busy=False, seen_at=clock.now)
        self.dog = Watchdog(
            consumer=lambda: self.consumer,
            recovered=lambda: self.recovered,
            flowing=lambda: True,
            healer=Healer(lambda: self.consumer, dict.fromkeys((QUERIES, FEEDBACK), self.intake), "t.", notebook),
            progress=self.progress,
            sources=frozenset({QUERIES, FEEDBACK}),
            prefix="t.",
            session_timeout_s=SESSION_S,
            stall_s=lambda: self.patience,
            observer=notebook,
        )

    async def probe(self, seconds: float = 2.0) -> None:
        self.clock.now += seconds
        await self.dog._probe_when_recovered(self.consumer.positions())

    async def probe_for(self, seconds: float) -> None:
        for _ in range(int(seconds / 2)):
            await self.probe()


@pytest.fixture
async def post(clock: Callable[..., Any], notebook: Notebook) -> Post:
    return Post(clock(watchdog, progress, healing, contiguity), notebook)


class TestStall:
    """Commits that do not move while there is input."""

    async def test_unmoved_commit_with_input_ends_the_process(self, post: Post) -> None:
        """Committed below the end and unmoved for a stall's length: 71, with the place."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        with pytest.raises(WorkerMustStop, match="stands at 3 of 9") as caught:
            await post.probe_for(STALL_S + 6)
        assert caught.value.code is ExitCode.STALLED

    async def test_moving_commit_is_no_stall(self, post: Post) -> None:
        """However far behind, a commit that moves is work."""
        for committed in range(100):
            post.consumer.offsets = {TP: (committed, 100_000)}
            await post.probe()

    async def test_idle_partition_is_no_stall(self, post: Post) -> None:
        """A partition without input may stand still for ever."""
        post.consumer.offsets = {TP: (9, 9)}
        await post.probe_for(20 * STALL_S)

    async def test_patience_while_the_encoder_loads(self, post: Post) -> None:
        """The first text may take longer than a stall, in the exit and in what health says."""
        post.patience = 120.0
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        await post.probe_for(100)
        assert post.dog.complaints() == []
        with pytest.raises(WorkerMustStop):
            await post.probe_for(60)

    async def test_health_says_it_before_the_exit(self, post: Post) -> None:
        """A probe sees the stall while the process still runs, with the partition and since when."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        await post.probe_for(4)
        assert post.dog.complaints() == []
        await post.probe_for(6)
        assert post.dog.complaints() == ["t.queries/0 has input and no commit for 8 s"]

    async def test_probe_that_never_returns_is_said(self, post: Post) -> None:
        """A consumer thread that hangs answers no probe, so no stall is ever seen: health says it, then it ends."""
        post.consumer.broker_offsets = never  # type: ignore[method-assign]
        hanging = asyncio.create_task(post.probe())
        await asyncio.sleep(0)
        assert post.dog.complaints() == []
        post.clock.now += OVERDUE_S + 1
        assert post.dog.complaints() == [f"the consumer thread has not answered the watchdog for {OVERDUE_S + 1:.0f} s"]
        post.dog.check_probe()
        post.clock.now += OVERDUE_S
        with pytest.raises(WorkerMustStop, match="consumer thread has not answered") as caught:
            post.dog.check_probe()
        assert caught.value.code is ExitCode.STALLED
        hanging.cancel()

    async def test_idle_behind_the_end_is_healed_first(self, post: Post) -> None:
        """All that was handed out is done and yet the end is not reached: fetched again before giving up."""
        post.consumer.offsets = {TP: (0, 9)}
        await post.probe_for(8)
        assert post.consumer.sought >= 1

    async def test_slow_probes_heal_before_they_give_up(self, post: Post) -> None:
        """Where a probe takes longer than a stall, records are fetched again all the same, twice, then it ends."""
        post.consumer.offsets = {TP: (0, 9)}
        await post.probe()
        for sought in (1, 2):
            await post.probe(STALL_S + 1)
            assert post.consumer.sought == sought
        with pytest.raises(WorkerMustStop, match="stands at 0 of 9"):
            await post.probe(STALL_S + 1)

    async def test_starved_partition_is_no_stall(self, post: Post) -> None:
        """While its agent is at work on records of other partitions, this one must wait its turn."""
        post.consumer.offsets = {TP: (0, 9)}
        post.consumer.held_back = {TP}
        for _ in range(int(2 * STALL_S)):
            post.intake.seen_at = post.clock.now
            await post.probe()
        assert post.consumer.sought == 0

    async def test_partition_behind_others_in_the_fetcher_is_no_stall(self, post: Post) -> None:
        """Its records are here and wait for those of others, of either topic; a seek would throw them away."""
        post.consumer.offsets = {TP: (0, 9)}
        post.consumer.fetched = {TP}
        for _ in range(int(2 * STALL_S)):
            post.intake.seen_at = post.clock.now
            await post.probe()
        assert post.consumer.sought == 0

    async def test_fetched_records_that_nobody_takes_are_a_stall(self, post: Post) -> None:
        """Where no agent is at work, nothing comes before them."""
        post.consumer.offsets = {TP: (0, 9)}
        post.consumer.fetched = {TP}
        with pytest.raises(WorkerMustStop, match="stands at 0"):
            await post.probe_for(3 * STALL_S)

    async def test_partition_held_back_by_an_agent_that_stands_still_is_a_stall(self, post: Post) -> None:
        """A queue that nobody empties is no excuse."""
        post.consumer.offsets = {TP: (0, 9)}
        post.consumer.held_back = {TP}
        with pytest.raises(WorkerMustStop, match="stands at 0 of 9"):
            await post.probe_for(2 * STALL_S + 10)

    async def test_outage_is_no_stall(self, post: Post) -> None:
        """A broker that does not answer stops nothing, and time starts anew when it does."""
        post.consumer.found[0].last = 5
        for answer in ({TP: (3, 9)}, KafkaConnectionError("down"), TimeoutError()) * 5:
            post.consumer.offsets = answer
            await post.probe_for(8)

    async def test_hole_is_left_to_the_healer_for_a_while(self, post: Post) -> None:
        """While records are fetched again a commit may stand still for two stalls, and no longer."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        post.consumer.found[0].hole_since = post.clock.now
        await post.probe_for(2 * STALL_S)
        with pytest.raises(WorkerMustStop, match="stands at 3 of 9"):
            await post.probe_for(6)

    async def test_outage_is_told(self, post: Post) -> None:
        """While the broker does not answer the worker is not ready, and says since when; one answer ends it."""
        await post.probe()
        assert post.dog.outage() == []
        post.consumer.offsets = KafkaConnectionError("down")
        await post.probe()
        await post.probe(7.0)
        assert post.dog.outage() == ["the broker has not answered for 7 s"]
        post.consumer.offsets = {TP: (3, 9)}
        await post.probe()
        assert post.dog.outage() == []

    async def test_recovery_is_no_stall(self, post: Post) -> None:
        """Nothing is processed while tables recover, however long it takes."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        await post.probe_for(8)
        post.recovered = False
        await post.probe_for(5 * STALL_S)
        post.recovered = True
        await post.probe_for(8)

    async def test_rebalance_starts_time_anew(self, post: Post) -> None:
        """The same offset under a new generation is a new beginning."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        for generation in range(10):
            post.consumer.generation = generation
            await post.probe_for(8)


class TestCrawl:
    """Commits that move far behind what is applied."""

    async def crawl(self, post: Post, probes: int) -> None:
        for committed in range(probes):
            post.consumer.offsets = {TP: (committed, 2_000)}
            await post.probe()

    async def test_commit_far_behind_what_was_applied_ends_the_process(self, post: Post) -> None:
        """Moving by one offset a time while a thousand were applied long ago is a crawl: 71."""
        post.consumer.found[0].done = 1_000
        with pytest.raises(WorkerMustStop, match="commits crawl") as caught:
            await self.crawl(post, 100)
        assert caught.value.code is ExitCode.STALLED
        assert post.clock.now < 1_000 + STALL_S + 8

    async def test_one_old_answer_is_no_crawl(self, post: Post) -> None:
        """A coordinator that has just moved names an old commit once; the next answer is right again."""
        post.consumer.found[0].done = 27
        for committed in [28] * 8 + [0, 28] * 3:
            post.consumer.offsets = {TP: (committed, 28)}
            await post.probe()
        post.consumer.offsets = {TP: (0, 28)}
        await post.probe()
        with pytest.raises(WorkerMustStop, match="stands at 0, applied to 28"):
            await post.probe()

    async def test_commit_that_follows_what_was_applied_is_well(self, post: Post) -> None:
        """Commits a few seconds behind the applied events are the rule."""
        for number in range(50):
            post.consumer.found[0].done = 100 * (number + 3)
            post.consumer.offsets = {TP: (100 * number + 1, 10**6)}
            await post.probe()

    async def test_ended_assignment_does_not_crawl(self, post: Post) -> None:
        """A position that is over says nothing about the commits of its successor."""
        old = post.consumer.found[0]
        old.done = 1_000
        await self.crawl(post, 2)
        old.assignment._unassign()
        await self.crawl(post, 10)


class TestPause:
    """The process itself stood still."""

    async def test_long_pause_ends_the_process(self, post: Post) -> None:
        """After a pause near the session timeout somebody else may own the partitions: 73."""
        ticking = asyncio.create_task(post.dog.run_pulse())
        await asyncio.sleep(0)
        post.clock.now += SESSION_S
        with pytest.raises(WorkerMustStop, match=r"stood still for 10\.0 s") as caught:
            post.dog.check_pause()
        assert caught.value.code is ExitCode.LEASE_LOST
        assert "stands still for 10 s" in post.dog.complaints()[0]
        ticking.cancel()

    async def test_short_pause_is_allowed(self, post: Post) -> None:
        """A pause that the lease covers is none."""
        ticking = asyncio.create_task(post.dog.run_pulse())
        await asyncio.sleep(0)
        post.clock.now += SESSION_S * 0.7
        post.dog.check_pause()
        assert post.dog.complaints() == []
        ticking.cancel()

    async def test_before_the_first_tick_nothing_is_a_pause(self, post: Post) -> None:
        """Loading at the start takes as long as it takes."""
        post.clock.now += 100 * SESSION_S
        post.dog.check_pause()

    async def test_slow_broker_is_no_pause(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a probe waits for its answer the process still ticks."""
        monkeypatch.setattr(watchdog, "TICK_S", 0.0)
        answered = asyncio.Event()

        async def slow(_: list[Any]) -> dict[Any, tuple[int, int]]:
            await answered.wait()
            return {}

        monkeypatch.setattr(post.consumer, "broker_offsets", slow)
        running = [asyncio.create_task(post.dog.run()), asyncio.create_task(post.dog.run_pulse())]
        for _ in range(20):  # 50 s: longer than any session, shorter than what a probe that is alive may take
            post.clock.now += SESSION_S / 4
            for _ in range(10):
                await asyncio.sleep(0)
        assert not any(task.done() for task in running)
        assert post.clock.now - (post.dog._last_tick or 0.0) < SESSION_S
        for task in running:
            task.cancel()


class TestReports:
    """What others see of it."""

    async def test_lag_and_commit_are_reported(self, post: Post) -> None:
        """Every probe reports the lag of each partition and the time of the last commit."""
        post.consumer.offsets = {TP: (3, 9), TopicPartition(FEEDBACK, 0): (5, 4)}
        post.consumer.last_commit = 77.0
        await post.probe()
        assert post.notebook.of(Lag) == [Lag("queries", 0, 6), Lag("feedback", 0, 0)]
        assert post.notebook.of(Committed) == [Committed(77.0)]

    async def test_lost_partition_has_no_lag(self, post: Post) -> None:
        """The lag of a partition that went elsewhere is withdrawn."""
        await post.probe()
        post.consumer.offsets = {}
        await post.probe()
        assert post.notebook.records[-1] == Lag("queries", 0, None)

    async def test_lost_partition_is_no_complaint(self, post: Post) -> None:
        """Input of a partition that went elsewhere does not make this worker look dead."""
        post.consumer.offsets = {TP: (3, 9), TopicPartition(QUERIES, 1): (1, 1)}
        await post.probe()
        post.consumer.offsets = {TopicPartition(QUERIES, 1): (1, 1)}
        await post.probe_for(5 * STALL_S)
        assert post.dog.complaints() == []

    async def test_unmoved_commit_is_a_complaint(self, post: Post) -> None:
        """Health says which partition has input and no commit, in words."""
        post.consumer.offsets = {TP: (3, 9)}
        post.consumer.found[0].last = 5
        await post.probe_for(8)
        assert any("t.queries/0 has input and no commit" in line for line in post.dog.complaints())

    async def test_a_late_look_is_no_complaint(self, post: Post) -> None:
        """While the watchdog itself has to wait, health does not take what it saw long ago for the present."""
        post.consumer.offsets = {TP: (3, 9)}
        await post.probe_for(4)
        post.clock.now += STALL_S
        assert post.dog.complaints() == []

    async def test_probes_feed_expiry(self, post: Post) -> None:
        """What the broker says is committed reaches those who wait for it."""
        post.consumer.offsets = {TP: (9, 9)}
        await post.probe()
        assert post.progress.committed(QUERIES, 0) == 9
