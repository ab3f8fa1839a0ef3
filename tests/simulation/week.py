"""Days of traffic of many users through one lane: real handlers, sweeper and codecs, a broker that always acknowledges.

What is kept is the changelogs' latest value by key, as a worker recovers it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tests.simulation.machine import CATALOG, OBSERVER, Clock, Projection, Rule
from tests.simulation.oracle import decision_of
from tests.simulation.world import DIMENSION, FEEDBACK, QUERIES, START_MS
from worker import codecs
from worker.core.shard import Shard, ShardKey
from worker.kafka.control import Budgets
from worker.settings import Settings
from worker.stream.batch import Journal, SourceRecord
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import SpendKey, State
from worker.stream.sweep import Sweeper

DAY_S = 86_400
_BATCH = 100
_CALLERS_DELAY_S, _RATERS_DELAY_S = 20, 3_600  # means
_SILENT, _RATED, _EARLY, _ORPHANED = 0.05, 0.3, 0.02, 0.02  # shares of the queries


@dataclass(frozen=True, slots=True)
class Sample:
    """What one lane keeps at a moment."""

    day: float
    queries: int
    decisions: int
    parked: int
    windows: int
    sweeper: int
    stored_bytes: int


class Week:
    """`users` who each send `per_day` queries a day on average; one in twenty is never settled."""

    def __init__(self, users: int, per_day: float, seed: int = 1, *, expiry: bool = True) -> None:
        self.now = START_MS
        self._expiry = expiry
        self._rng = random.Random(seed)
        self._users, self._per_ms = users, users * per_day / DAY_S / 1000
        self._read = {QUERIES: 0, FEEDBACK: 0}
        self._coming: list[tuple[float, int, dict[str, Any]]] = []
        self._order = itertools.count()
        self._pending: dict[bytes, bytes] = {}
        self._spend: dict[SpendKey, bytes] = {}
        self._shards: dict[ShardKey, bytes] = {}
        self._journal = Journal(State(self._load_pending, self._load_spend, self._load_shard))
        settings = Settings(topic_prefix="sim.", embedding_dim=DIMENSION, decision_detail="chosen", worker_id="sim")
        tenure = SimpleNamespace(journal=self._journal, began=[])
        shared: Any = {"settings": settings, "partitions": 1, "tenure": tenure, "observer": OBSERVER}
        self._sweeper = Sweeper(
            **shared, tables=self, committed=lambda topic, _: self._read[topic], clock=Clock(self)  # type: ignore[arg-type]
        )  # fmt: skip
        shared |= {"sweeper": self._sweeper, "catalog": CATALOG}
        self._route = RouteHandler(
            **shared, router=Rule(), projection=Projection(), encoder=None, budgets=Budgets()  # type: ignore[arg-type]
        )  # fmt: skip
        self._settle = SettleHandler(**shared)

    def run(self, days: float, every: float = 0.5) -> Iterator[Sample]:
        """Live so many days; a sample every so often, the last one after days of silence."""
        at, sample_at = float(self.now), self.now + every * DAY_S * 1000
        end = START_MS + days * DAY_S * 1000
        for number in itertools.count():
            at += self._rng.expovariate(self._per_ms)
            if at > end:
                break
            self._arrive(at, number)
            if self.now >= sample_at:
                yield self._sample()
                sample_at += every * DAY_S * 1000
        self._speak(end)
        yield self._sample()
        for _ in range(4):
            self._idle(DAY_S)
        yield self._sample()

    def _arrive(self, at: float, number: int) -> None:
        user, query_id = f"user-{self._rng.randrange(self._users)}", f"q-{number}"
        about = {"user_id": user, "query_id": query_id}
        if self._rng.random() > _SILENT:
            early = self._rng.random() < _EARLY
            delay = -5.0 if early else self._rng.expovariate(1 / _CALLERS_DELAY_S)
            self._later(at + delay * 1000, {**about, "cost_usd": 0.001, "input_tokens": 50, "output_tokens": 90})
        if self._rng.random() < _RATED:
            self._later(at + self._rng.expovariate(1 / _RATERS_DELAY_S) * 1000, {**about, "reward": 0.5})
        if self._rng.random() < _ORPHANED:
            self._later(at, {**about, "query_id": f"lost-{number}", "reward": 0.5})
        self._speak(at)
        self._handle(self._route, QUERIES, at, {**about, "embedding": [1.0, 0.5, 0.25], "input_tokens": 50})

    def _later(self, at: float, event: dict[str, Any]) -> None:
        heapq.heappush(self._coming, (at, next(self._order), event))

    def _speak(self, until: float) -> None:
        while self._coming and self._coming[0][0] <= until:
            at, _, event = heapq.heappop(self._coming)
            self._handle(self._settle, FEEDBACK, at, event)

    def _handle(self, agent: Any, topic: str, at: float, event: dict[str, Any]) -> None:
        self.now = max(self.now, int(at))
        value, user = json.dumps(event).encode(), event["user_id"].encode()
        record = SourceRecord(topic, 0, self._read[topic], self.now, user, value)
        self._read[topic] += 1
        agent.handle(record, agent.prepare(record))
        if sum(self._read.values()) % _BATCH == 0:
            self._deliver()
            self._sweep()

    def _idle(self, seconds: int) -> None:
        self._deliver()
        self.now += seconds * 1000
        self._sweep()
        self.now += 10_000
        self._sweep()

    def _sweep(self) -> None:
        behind = self._expiry
        while behind:
            self._sweeper.sweep()
            self._deliver()
            behind = self._sweeper.behind

    def _deliver(self) -> None:
        batch, state = self._journal.turn(), self._journal.state
        for key in batch.pending:
            _put(self._pending, key, state.pending.get(0, key), codecs.pack_pending)
        for window in batch.spend:
            _put(self._spend, window, state.spend.get(0, window), codecs.pack_spend)
        for place in batch.shards:
            _put(self._shards, place, state.shards.get(0, place), Shard.pack)
        for call in batch.delivered:
            call()
        state.evict(batch.number)

    def _sample(self) -> Sample:
        parked = sum(decision_of(value) is None for value in self._pending.values())
        size = sum(len(value) for table in (self._pending, self._spend, self._shards) for value in table.values())
        sweeper = self._sweeper
        watched = sum(
            map(
                len,
                (
                    sweeper._due,
                    sweeper._watched,
                    sweeper._told,
                    *sweeper._windows.values(),
                    *sweeper._mentioned.values(),
                ),
            )
        )
        days = (self.now - START_MS) / 1000 / DAY_S
        decisions = len(self._pending) - parked
        return Sample(days, self._read[QUERIES], decisions, parked, len(self._spend), watched, size)

    def pending_items(self) -> list[tuple[bytes, bytes]]:
        return list(self._pending.items())

    def spend_keys(self) -> list[SpendKey]:
        return list(self._spend)

    def _load_pending(self, _: int, key: bytes) -> Any:
        value = self._pending.get(key)
        return None if value is None else codecs.unpack_pending(value)

    def _load_spend(self, _: int, key: SpendKey) -> Any:
        value = self._spend.get(key)
        return None if value is None else codecs.unpack_spend(value)

    def _load_shard(self, _: int, key: ShardKey) -> Any:
        value = self._shards.get(key)
        return None if value is None else Shard.unpack(value)


def _put(store: dict[Any, bytes], key: Any, value: Any, pack: Any) -> None:
    if value is None:
        store.pop(key, None)
    else:
        store[key] = pack(value)
