"""Expiry: forgotten decisions, early feedback whose query never came, closed windows.

Time is broker time: the largest LogAppendTime seen plus the monotonic time since,
so idle partitions expire too and the worker's clock does not matter. Everything
goes through the lane. Expired early feedback is refused first (in `pending`), then
its dead letters leave, and only when those are acknowledged comes the tombstone.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice

from worker.core.lifecycle import Parked, Pending, expire_parked
from worker.errors import BadRecord
from worker.kafka.partitioning import partition_of
from worker.observe import records
from worker.observe.records import Observer
from worker.settings import Settings
from worker.stream import codecs
from worker.stream.batch import SourceRecord
from worker.stream.deadletters import dead_letter
from worker.stream.state import SpendKey
from worker.stream.tables import Tables
from worker.stream.tenure import Tenure

_PER_SWEEP = 500  # keys of each kind: a sweep must not hold up the agents
_RETRY_MS = 5_000

Committed = Callable[[str, int], int | None]


class BrokerClock:
    """The broker's time, as far as its log append times tell."""

    def __init__(self) -> None:
        self._latest_ms = 0
        self._at = time.monotonic()

    def observe(self, timestamp_ms: int) -> None:
        """A record with this broker time was seen."""
        if timestamp_ms > self._latest_ms:
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
        observer: Observer,
    ) -> None:
        self.clock = BrokerClock()
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
        self._windows: defaultdict[int, dict[SpendKey, int]] = defaultdict(dict)
        self._told: set[bytes] = set()
        self._stored: Iterator[tuple[bytes, bytes]] = iter(self._tables.pending_items())
        for key in self._tables.spend_keys():
            self.watch_window(partition_of(key.user_id.encode(), self._partitions), key)

    def watch(self, partition: int, key: bytes, pending: Pending) -> None:
        """A pending record was written: it will be due some time after its last change."""
        self.clock.observe(pending.changed_ms)
        if key not in self._watched:
            self._watched.add(key)
            heapq.heappush(self._due, (self._deadline(pending), partition, key))

    def watch_window(self, partition: int, key: SpendKey) -> None:
        """A user's window was opened: it is dropped when no decision of it can be remembered."""
        self._windows[key.window][key] = partition

    def sweep(self) -> bool:
        """Let go of what is due, at most so many keys; whether anything was written."""
        self._index_stored()
        batch, before = self._tenure.journal.batch, self._written()
        now = self.clock.now_ms()
        for _ in range(_PER_SWEEP):
            if not self._due or self._due[0][0] > now:
                break
            _, partition, key = heapq.heappop(self._due)
            self._watched.discard(key)
            self._let_go(partition, key, now)
        self._close_windows(now)
        return batch is self._tenure.journal.batch and self._written() > before

    def _written(self) -> int:
        batch = self._tenure.journal.batch
        return len(batch.pending) + len(batch.spend) + len(batch.outputs)

    def _index_stored(self) -> None:
        for key, value in islice(self._stored, _PER_SWEEP):
            user_id, _ = codecs.unpack_pending_key(key)
            self.watch(partition_of(user_id.encode(), self._partitions), key, codecs.unpack_pending(value))

    def _deadline(self, pending: Pending) -> int:
        if pending.decision is None and pending.parked:
            return pending.parked[0].timestamp + int(self._settings.park_s * 1000)
        if pending.decision is None:
            return pending.changed_ms
        return pending.changed_ms + int(self._settings.decision_ttl_s * 1000)

    def _let_go(self, partition: int, key: bytes, now: int) -> None:
        pending = self._tenure.journal.state.pending.get(partition, key)
        if pending is None:
            return
        if self._deadline(pending) > now:
            self.watch(partition, key, pending)
        elif not self._settled_in_log(partition, pending):
            self._watched.add(key)
            heapq.heappush(self._due, (now + _RETRY_MS, partition, key))
        elif pending.decision is None and pending.parked:
            self._refuse_parked(partition, key, pending, now)
        elif pending.decision is None and pending.refused and key not in self._told:
            self._tell(partition, key, pending)
        else:
            self._told.discard(key)
            self._tenure.journal.put_pending(partition, key, None)

    def _settled_in_log(self, partition: int, pending: Pending) -> bool:
        """Whether no event that this record depends on can be replayed any more."""
        queries = self._committed(self._settings.topic("queries"), partition)
        feedback = self._committed(self._settings.topic("feedback"), partition)
        if queries is None or feedback is None:
            return False
        return pending.offset < queries and pending.last_feedback < feedback

    def _refuse_parked(self, partition: int, key: bytes, pending: Pending, now: int) -> None:
        expired = expire_parked(pending, now - int(self._settings.park_s * 1000))
        self._tenure.journal.put_pending(partition, key, expired)
        self._tell(partition, key, expired)

    def _tell(self, partition: int, key: bytes, pending: Pending) -> None:
        """Send the dead letters; the key comes up again, and goes once they are acknowledged."""
        journal = self._tenure.journal
        for entry in pending.refused:
            bad = BadRecord(entry.code, entry.message)
            journal.emit(dead_letter(self._settings.topic("dead-letters"), self._origin(partition, entry.record), bad))
            self._observer.observe(records.DeadLetterSent("feedback", partition, entry.record.offset, entry.code))

        def acknowledged() -> None:
            if not pending.parked:
                self._told.add(key)

        journal.on_delivered(acknowledged)
        self._watched.add(key)
        again = self._deadline(pending) if pending.parked else self.clock.now_ms() + _RETRY_MS
        heapq.heappush(self._due, (again, partition, key))

    def _origin(self, partition: int, parked: Parked) -> SourceRecord:
        topic = self._settings.topic("feedback")
        return SourceRecord(topic, partition, parked.offset, parked.timestamp, parked.key, parked.value, parked.headers)

    def _close_windows(self, now: int) -> None:
        """Drop windows of which no decision is remembered; not before, or money would vanish."""
        keep_s = self._settings.budget_window_s + self._settings.decision_ttl_s
        closed = [start for start in self._windows if (start + keep_s) * 1000 < now]
        for start in closed:
            keys = self._windows[start]
            for key in list(islice(keys, _PER_SWEEP)):
                self._tenure.journal.put_spend(keys.pop(key), key, None)
            if not keys:
                del self._windows[start]
