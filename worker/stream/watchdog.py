"""The watchdog: a silent stop becomes an exit, judged by what the broker says.

A worker can look alive and not advance: commits that stall, or crawl by one offset
at a time (faust-streaming/faust#596). It also notices that the process itself was
stopped, for then another worker may own its partitions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from worker.errors import ExitCode, WorkerMustStop
from worker.observe.records import Committed, Lag, Observer
from worker.stream.contiguity import SourcePosition
from worker.stream.healing import Healer
from worker.stream.progress import Progress

logger = structlog.get_logger(__name__)

TICK_S = 0.25
PROBE_EVERY = 8  # ticks
STALL_S = 10.0
_BEHIND_S = 3.0  # so long a partition may be idle behind its end before what is missing is fetched again
_TRIES = 2  # so often, counted and not timed: under load a probe can take as long as a stall
_PAUSE_SHARE = 0.8  # of the session timeout
_EARLY_S = 5.0  # so long before a stall ends the process, health says it: probes come every few seconds
OVERDUE_S = 30.0  # a probe's calls give up after a few seconds each; one that hangs this long never returns
_DEAF_S = 2 * OVERDUE_S  # health has said it for half of this time


class Watchdog:
    """Probes the broker every two seconds."""

    def __init__(
        self,
        *,
        consumer: Callable[[], Any],
        recovered: Callable[[], bool],
        flowing: Callable[[], bool],
        healer: Healer,
        progress: Progress,
        sources: frozenset[str],
        prefix: str,
        session_timeout_s: float,
        stall_s: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._consumer = consumer
        self._recovered = recovered
        self._flowing = flowing
        self._healer = healer
        self._progress = progress
        self._sources = sources
        self._prefix = prefix
        self._stall_s = stall_s
        self._pause_s = session_timeout_s * _PAUSE_SHARE
        self._observer = observer
        self._last_tick: float | None = None
        self._unanswered_since: float | None = None
        self._asked_at: float | None = None
        self._looked_at = 0.0
        self._unmoved: dict[Any, tuple[tuple[Any, int], float]] = {}
        self._applied: deque[tuple[float, dict[SourcePosition, int]]] = deque()
        self._behind: dict[SourcePosition, int] = {}

    def check_pause(self) -> None:
        """Leave if the process or its loop stood still so long that it may have lost its partitions.

        Raises:
            WorkerMustStop: exit 73.
        """
        now = time.monotonic()
        if self._last_tick is not None and now - self._last_tick > self._pause_s:
            paused = now - self._last_tick
            raise WorkerMustStop(ExitCode.LEASE_LOST, f"the process stood still for {paused:.1f} s")

    def check_probe(self) -> None:
        """Leave if a probe never returns: the consumer thread is dead, and nothing else would notice.

        Raises:
            WorkerMustStop: exit 71.
        """
        asked = self._asked_at
        if asked is not None and time.monotonic() - asked > _DEAF_S:
            raise WorkerMustStop(ExitCode.STALLED, f"the consumer thread has not answered for {_DEAF_S:.0f} s")

    def complaints(self) -> list[str]:
        """Why the worker is not live: its loop stands still, or commits do while there is input. Any thread."""
        now = time.monotonic()
        found = [
            f"{tp.topic}/{tp.partition} has input and no commit for {self._looked_at - since:.0f} s"
            for tp, (_, since) in list(self._unmoved.items())
            if self._looked_at - since > self._stall_s() - _EARLY_S  # what came after the last look, nobody knows
        ]
        asked = self._asked_at
        if asked is not None and now - asked > OVERDUE_S:
            found.append(f"the consumer thread has not answered the watchdog for {now - asked:.0f} s")
        if self._last_tick is not None and now - self._last_tick > self._pause_s:
            found.append(f"the event loop stands still for {now - self._last_tick:.0f} s")
        return found

    def outage(self) -> list[str]:
        """Why the worker is not ready: the broker does not answer. Any thread."""
        since = self._unanswered_since
        return [] if since is None else [f"the broker has not answered for {time.monotonic() - since:.0f} s"]

    async def run_pulse(self) -> None:
        """Watch for pauses, from before the first event on, and for probes that hang.

        Apart from the probes, which wait for the broker: a slow broker is no process that stood still.

        Raises:
            WorkerMustStop: exit 73 or 71.
        """
        while True:
            self.check_pause()
            self.check_probe()
            self._last_tick = time.monotonic()
            await asyncio.sleep(TICK_S)

    async def run(self) -> None:
        """Watch until something must be done about it.

        Raises:
            WorkerMustStop: exit 70 or 71.
        """
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            positions = self._consumer()._thread.positions()  # noqa: SLF001 - our own subclass
            if self._flowing():
                await self._healer.check(positions)
            else:
                self._healer.postpone(positions)
            if ticks % PROBE_EVERY == 0:
                await self._probe_when_recovered(positions)

    async def _probe_when_recovered(self, positions: list[SourcePosition]) -> None:
        if not self._recovered():
            self._forget()
            return
        self._asked_at = time.monotonic()
        try:
            await self._probe(positions)
            self._unanswered_since = None
        except (KafkaError, TimeoutError) as error:
            # An outage is no stall: the client reconnects by itself, and time starts anew.
            logger.warning("the broker did not answer the watchdog", error=type(error).__name__)
            self._unanswered_since = self._unanswered_since or time.monotonic()
            self._forget()
        self._asked_at = None

    def _forget(self) -> None:
        self._unmoved.clear()
        self._applied.clear()
        self._behind.clear()

    async def _probe(self, positions: list[SourcePosition]) -> None:
        consumer = self._consumer()
        thread = consumer._thread  # noqa: SLF001 - our own subclass
        owned = [tp for tp in consumer.assignment() if tp.topic in self._sources]
        reached = self._reached_before(positions)
        offsets = await consumer.on_thread(thread.broker_offsets(owned)) if owned else {}
        self._report(offsets, consumer.last_commit)
        for tp in self._unmoved.keys() - offsets.keys():
            del self._unmoved[tp]  # no longer ours: its silence is none of our business
        self._check_crawl(offsets, reached)
        by_partition = {position.tp: position for position in positions}
        for tp, (committed, end) in offsets.items():
            await self._check_movement(tp, committed, end, by_partition.get(tp), thread.generation)

    def _check_crawl(self, offsets: dict[Any, tuple[int, int]], reached: dict[SourcePosition, int]) -> None:
        """Twice in a row: a coordinator that has just moved may name an old commit until its high watermark follows."""
        behind = {
            position: offsets[position.tp][0]
            for position, applied in reached.items()
            if position.live and position.tp in offsets and offsets[position.tp][0] < applied
        }
        crawling = behind.keys() & self._behind.keys()
        if crawling:
            position = crawling.pop()
            raise WorkerMustStop(
                ExitCode.STALLED,
                f"commits crawl: {position.tp} stands at {behind[position]}, applied to {reached[position]} long ago",
            )
        self._behind = behind

    def _reached_before(self, positions: list[SourcePosition]) -> dict[SourcePosition, int]:
        """How far each partition was applied a stall's length ago."""
        now = time.monotonic()
        self._applied.append((now, {position: position.done + 1 for position in positions}))
        while len(self._applied) > 1 and self._applied[1][0] < now - STALL_S:
            self._applied.popleft()
        oldest, reached = self._applied[0]
        return reached if oldest < now - STALL_S else {}

    async def _check_movement(
        self, tp: Any, committed: int, end: int, position: SourcePosition | None, generation: int | None
    ) -> None:
        if committed >= end:
            self._unmoved.pop(tp, None)
            return
        now, mark = time.monotonic(), (generation, committed)
        self._looked_at = now
        seen, since = self._unmoved.get(tp, (None, now))
        if seen != mark:
            self._unmoved[tp] = (mark, now)
            return
        idle = position is not None and position.done == position.last == position.chain[0]
        if idle and self._starved(tp):
            self._unmoved[tp] = (mark, now)
            return
        if position is not None and idle and now - since > _BEHIND_S and position.seeks < _TRIES:
            await self._healer.heal(position, "idle behind the end")
        elif now - since > self._patience_s(position):
            raise WorkerMustStop(
                ExitCode.STALLED, f"{tp} stands at {committed} of {end} and has not moved for {now - since:.0f} s"
            )

    def _patience_s(self, position: SourcePosition | None) -> float:
        """A hole is the healer's, whose verdict (exit 70) says more, but not for ever."""
        healing = position is not None and position.hole_since is not None
        return self._stall_s() * (2 if healing else 1)

    def _starved(self, tp: Any) -> bool:
        """Whether the partition waits for its turn: its agent, or the fetcher, is at work on what it has of others."""
        consumer = self._consumer()
        if consumer.holds_back(tp):
            return self._healer.at_work(tp.topic)
        return consumer.has_fetched(tp) and any(self._healer.at_work(topic) for topic in self._sources)

    def _report(self, offsets: dict[Any, tuple[int, int]], last_commit: float) -> None:
        for topic, partition in self._progress.note(offsets):
            self._observer.observe(Lag(topic.removeprefix(self._prefix), partition, None))
        for tp, (committed, end) in offsets.items():
            lag = max(0, end - committed)
            self._observer.observe(Lag(tp.topic.removeprefix(self._prefix), tp.partition, lag))
        if last_commit:
            self._observer.observe(Committed(last_commit))
