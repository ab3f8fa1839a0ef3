"""Expiry: forgotten decisions, early feedback whose query never came, closed windows.

Time is broker time: the largest LogAppendTime seen plus the monotonic time since,
so idle partitions expire too and the worker's clock does not matter. Everything
goes through the lane. Expired early feedback is refused first (in `pending`), then
its dead letters leave, and only when those are acknowledged comes the tombstone.
Nothing expires in a lane that lags: what would keep it alive may still lie there.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice

from worker import codecs
from worker.core.fence import Event, Source
from worker.core.lifecycle import Parked, Pending, Refused, expire_parked
from worker.errors import BadRecord
from worker.kafka.partitioning import partition_of
from worker.observe import records
from worker.observe.records import Observer
from worker.settings import Settings
from worker.stream.batch import SourceRecord
from worker.stream.deadletters import dead_letter
from worker.stream.progress import CURRENT_S
from worker.stream.state import SpendKey
from worker.stream.tables import Tables
from worker.stream.tenure import Tenure

_PER_SWEEP = 500  # keys of each kind: a sweep must not hold up the agents
_INDEXED_WINDOWS = 2_000  # stored windows a sweep takes note of, some ten microseconds each
_RETRY_MS = 5_000
_LOOK_EVERY_MS = 60 * 60 * 1000
_AHEAD_MS = 2 * _LOOK_EVERY_MS  # what is due later is left to the next look: the index need not hold a day of keys
_TOPICS = {Source.QUERY: "queries", Source.FEEDBACK: "feedback"}

Committed = Callable[[str, int], int | None]  # None: the partition lags behind its end


class BrokerClock:
    """The broker's time, as far as its log append times tell; it never goes back.

    Each record seen gives a lower bound, for it was on its way for a while. The highest counts.
    """

    def __init__(self) -> None:
        self._latest_ms = 0
        self._at = time.monotonic()

    def observe(self, timestamp_ms: int) -> None:
        """A record with this broker time was seen."""
        if timestamp_ms > self._latest_ms and timestamp_ms > self.now_ms():
            self._latest_ms, self._at = timestamp_ms, time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch; 0 before anything was seen."""
        return self._latest_ms and self._latest_ms + int((time.monotonic() - self._at) * 1000)


class Sweeper:
    """Knows when each key of this assignment is due, and lets it go through the lane."""

    def __init__(
        self,
        *,
        settings: Settings,
        partitions: int,
        tenure: Tenure,
        tables: Tables,
        committed: Committed,
        clock: BrokerClock,
        observer: Observer,
    ) -> None:
        self.clock = clock
        self.behind = False  # more is due than one sweep lets go
        self._settings = settings
        self._partitions = partitions
        self._tenure = tenure
        self._tables = tables
        self._committed = committed
        self._observer = observer
        self.begin()
        tenure.began.append(self.begin)

    def begin(self) -> None:
        """Forget the last assignment and index what the tables hold now, a part a sweep."""
        self._due: list[tuple[int, int, bytes]] = []
        self._watched: set[bytes] = set()
        self._windows: defaultdict[tuple[int, int], dict[SpendKey, int]] = defaultdict(dict)
        self._mentioned: defaultdict[tuple[Source, int], dict[bytes, int]] = defaultdict(dict)
        self._told: dict[bytes, int] = {}  # the last refused offset whose dead letter is acknowledged
        self._current: frozenset[int] = frozenset()
        self._look_again()
        self._stored_windows: Iterator[SpendKey] = iter(self._tables.spend_keys())

    def watch(self, partition: int, key: bytes, pending: Pending) -> None:
        """A pending record was written: it will be due some time after its last change."""
        self.clock.observe(pending.changed_ms)
        deadline = self._deadline(pending)
        if key not in self._watched and deadline <= self.clock.now_ms() + _AHEAD_MS:
            self._watched.add(key)
            heapq.heappush(self._due, (deadline, partition, key))

    def watch_window(self, partition: int, key: SpendKey) -> None:
        """A user's window was opened: it is dropped when no decision of it can be remembered."""
        self._windows[key.window, key.length][key] = partition

    def mention(self, partition: int, key: bytes, event: Event) -> None:
        """An event left its pending record as it was: until it is committed, its replay must find it like that."""
        mentioned = self._mentioned[event.source, partition]
        mentioned.pop(key, None)  # the latest event is the last in order
        mentioned[key] = event.offset

    def users_of(self, window: int) -> dict[SpendKey, int]:
        """The users that have a window beginning then, in seconds since the epoch, with their partitions."""
        return dict(self._windows.get((window, 0), ()))

    def sweep(self) -> bool:
        """Let go of what is due, at most so many keys; whether anything was written."""
        self._index_stored()
        self._forget_mentions()
        before, now = self._written(), self.clock.now_ms()
        self._current = frozenset(number for number in range(self._partitions) if self._is_current(number))
        due = 0
        while self._due and self._due[0][0] <= now and due < _PER_SWEEP:
            _, partition, key = heapq.heappop(self._due)
            self._watched.discard(key)
            self._let_go(partition, key, now)
            due += 1
        self.behind = self._close_windows(now) or due == _PER_SWEEP
        return self._written() > before

    def _written(self) -> int:
        batch = self._tenure.journal.batch
        return len(batch.pending) + len(batch.spend) + len(batch.outputs)

    def _is_current(self, partition: int) -> bool:
        """Whether both topics of a lane are read to about their ends; what still lies there may not expire."""
        topics = (self._settings.topic("queries"), self._settings.topic("feedback"))
        return all(self._committed(topic, partition) is not None for topic in topics)

    def _look_again(self) -> None:
        """Begin a look at all stored keys, of which the next sweeps take a part each."""
        self._looked_ms = self.clock.now_ms()
        self._stored: Iterator[tuple[bytes, bytes]] = iter(self._tables.pending_items())

    def _index_stored(self) -> None:
        looked = 0
        for key, value in islice(self._stored, _PER_SWEEP):
            user_id, _ = codecs.unpack_pending_key(key)
            self.watch(partition_of(user_id.encode(), self._partitions), key, codecs.unpack_pending(value))
            looked += 1
        # The first look may have been made without knowing the time.
        if looked < _PER_SWEEP and self.clock.now_ms() - self._looked_ms >= _LOOK_EVERY_MS:
            self._look_again()
        for window in islice(self._stored_windows, _INDEXED_WINDOWS):
            self.watch_window(partition_of(window.user_id.encode(), self._partitions), window)

    def _deadline(self, pending: Pending) -> int:
        if pending.decision is None and pending.parked:
            return pending.parked[0].timestamp + int(self._settings.park_s * 1000)
        if pending.decision is None:
            return pending.changed_ms
        return pending.changed_ms + int(self._settings.decision_ttl_s * 1000)

    def _let_go(self, partition: int, key: bytes, now: int) -> None:
        if partition not in self._current:
            self._come_back(partition, key, now + _RETRY_MS)
            return
        pending = self._tenure.journal.state.pending.get(partition, key)
        if pending is None:
            return
        if self._deadline(pending) > now:
            self.watch(partition, key, pending)
        elif pending.decision is None:
            self._expire_early(partition, key, pending, now)
        elif self._settled_in_log(partition, key, pending):
            self._forget(partition, key)
        else:
            self._come_back(partition, key, now + _RETRY_MS)

    def _come_back(self, partition: int, key: bytes, at: int) -> None:
        self._watched.add(key)
        heapq.heappush(self._due, (at, partition, key))

    def _forget(self, partition: int, key: bytes) -> None:
        self._told.pop(key, None)
        self._tenure.journal.put_pending(partition, key, None)

    def _settled_in_log(self, partition: int, key: bytes, pending: Pending) -> bool:
        """Whether no event that this record depends on, or that depends on it, can be replayed any more."""
        if any(key in self._mentioned[source, partition] for source in Source):
            return False
        return all(
            last < self._committed_in(source, partition)
            for source, last in ((Source.QUERY, pending.offset), (Source.FEEDBACK, pending.last_feedback))
        )

    def _committed_in(self, source: Source, partition: int) -> int:
        return self._committed(self._settings.topic(_TOPICS[source]), partition) or 0

    def _forget_mentions(self) -> None:
        for (source, partition), mentioned in self._mentioned.items():
            committed = self._committed_in(source, partition)
            past: list[bytes] = []
            for key, offset in mentioned.items():
                if offset >= committed:
                    break
                past.append(key)
            for key in past:
                del mentioned[key]

    def _expire_early(self, partition: int, key: bytes, pending: Pending, now: int) -> None:
        """Refuse what waited too long, tell it, and forget it once told and beyond any replay."""
        told, committed = self._told.get(key, -1), self._committed_in(Source.FEEDBACK, partition)
        kept = tuple(entry for entry in pending.refused if entry.record.offset > min(told, committed - 1))
        left = expire_parked(pending._replace(refused=kept), now - int(self._settings.park_s * 1000))
        if not left.parked and not left.refused and self._settled_in_log(partition, key, pending):
            self._forget(partition, key)
            return
        if left != pending:
            self._tenure.journal.put_pending(partition, key, left)
        self._tell(partition, key, [entry for entry in left.refused if entry.record.offset > told])
        self._come_back(partition, key, max(now + _RETRY_MS, self._deadline(left)))

    def _tell(self, partition: int, key: bytes, entries: list[Refused]) -> None:
        """Send the dead letters; which of them are acknowledged is remembered."""
        if not entries:
            return
        journal, told, last = self._tenure.journal, self._told, entries[-1].record.offset
        for entry in entries:
            bad = BadRecord(entry.code, entry.message)
            journal.emit(dead_letter(self._settings.topic("dead-letters"), self._origin(partition, entry.record), bad))
            self._observer.observe(records.DeadLetterSent("feedback", partition, entry.record.offset, entry.code))

        def acknowledged() -> None:
            told[key] = max(last, told.get(key, -1))

        journal.on_delivered(acknowledged)

    def _origin(self, partition: int, parked: Parked) -> SourceRecord:
        topic = self._settings.topic("feedback")
        return SourceRecord(topic, partition, parked.offset, parked.timestamp, parked.key, parked.value, parked.headers)

    def _close_windows(self, now: int) -> bool:
        """Drop windows of which no decision is remembered; not before, or money would vanish. Whether more are due."""
        length_s = self._settings.budget_window_s
        # The first query of the next window takes over its rate history, and may come to be read this late.
        keep_s = max(length_s + CURRENT_S, self._settings.decision_ttl_s)
        closed = [
            (start, length) for start, length in self._windows if (start + (length or length_s) + keep_s) * 1000 < now
        ]
        left = _PER_SWEEP
        for window in closed:
            users = self._windows[window]
            due = list(islice((key for key, partition in users.items() if partition in self._current), left))
            for key in due:
                self._tenure.journal.put_spend(users.pop(key), key, None)
            left -= len(due)
            if not users:
                del self._windows[window]
        return left == 0
