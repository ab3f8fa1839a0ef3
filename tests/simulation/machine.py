"""The delivery protocol without Kafka: real handlers, sweeper and codecs over a simulated broker.

A worker crashes, or freezes and wakes as a zombie, at any point. A `Variant` breaks
one rule of the protocol; the tests show that each broken rule is caught.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.simulation.world import DIMENSION, FEEDBACK, MODELS, PARKS_S, QUERIES, START_MS, TTLS_S, WINDOW_S, World
from worker import codecs
from worker.core.arms import Arm
from worker.core.shard import Shard, ShardKey
from worker.core.verdict import Account, Candidate, Request, Verdict
from worker.kafka.control import Budgets, Catalog
from worker.observe import Observers
from worker.settings import Settings
from worker.stream.batch import Batch, Journal, SourceRecord
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import SpendKey, State
from worker.stream.sweep import Sweeper

TABLES = ("pending", "spend", "arms")
PLACES = (*TABLES, "out")
LIMIT_NANOS = 700_000_000
CURRENT_MS = 6_000  # how old the knowledge may be that a topic is read to its end
STAGES = {
    "pending first": (("pending",), ("spend", "arms", "out")),
    "effects first": (("spend", "arms"), ("pending", "out")),
    "all at once": (("pending", "spend", "arms", "out"),),
}
Records = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Variant:
    """How records leave and where state is read from; the defaults are the worker's."""

    order: str = "pending first"
    split_batches: bool = False
    store: str = "after acknowledgement"  # or "ahead", or "memory"
    held_shards: str = "not done"  # what is covered while its shards wait; or "done"
    owned: bool = True  # ownership is checked before every send
    reread: bool = True  # state is read after the encoding, not before
    commit: str = "after acknowledgement"  # or "when handled"
    evict: str = "acknowledged"  # or "anything"


@dataclass
class Broker:
    """Everything durable: the logs that workers write, when, and the committed offsets. Time is in ms."""

    now: int = START_MS
    logs: dict[str, Records] = field(default_factory=lambda: {place: [] for place in PLACES})
    times: dict[str, list[int]] = field(default_factory=lambda: {place: [] for place in PLACES})
    committed: dict[str, int] = field(default_factory=lambda: {QUERIES: 0, FEEDBACK: 0})
    owner: Any = None
    kept: tuple[str, ...] = ()  # what was still in state long after everything had expired

    def append(self, place: str, records: Records) -> None:
        self.logs[place].extend(records)
        self.times[place].extend([self.now] * len(records))


@dataclass
class Disk:
    """One worker's local store, which survives a crash, and how far it follows each changelog."""

    data: dict[str, dict[Any, bytes]] = field(default_factory=lambda: {t: {} for t in TABLES})
    followed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))

    def write(self, table: str, records: Records) -> None:
        for key, value in records:
            if value is None:
                self.data[table].pop(key, None)
            else:
                self.data[table][key] = value

    def recover(self, broker: Broker) -> None:
        for table in TABLES:
            self.write(table, broker.logs[table][self.followed[table] :])
            self.followed[table] = len(broker.logs[table])


class Rule:
    """Stands in for the router, whose decisions do not matter here: any rule must be exact."""

    version = "sim:0"

    def decide(self, request: Request, account: Account) -> Verdict:
        seed = sum(request.query_id.encode()) + account.queries
        model, reservation = MODELS[seed % 2], 20_000_000 + 1_000_000 * (seed % 50)
        candidates = tuple(Candidate(name, 0.5, 0.1, reservation, None) for name in MODELS)
        if account.limit is not None and account.settled + account.reserved + reservation > account.limit:
            return Verdict("budget_exhausted", candidates, "sim")
        return Verdict(
            None, candidates, "sim", model, 0.5, 0.1, 1.0, reservation // 2, reservation // 3, reservation, 0.0
        )


class Projection:
    fingerprint = "sim"

    def contexts(self, embeddings: np.ndarray, texts: object, tasks: object) -> np.ndarray:
        del texts, tasks
        return embeddings.astype(np.float32).astype(np.float64)


class Clock:
    """`BrokerClock` over simulated time."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._latest = self._at = 0

    def observe(self, timestamp_ms: int) -> None:
        if timestamp_ms > self.now_ms():
            self._latest, self._at = timestamp_ms, self._broker.now

    def now_ms(self) -> int:
        return self._latest and self._latest + self._broker.now - self._at


class _SplitJournal(Journal):
    """The broken rule "one batch for both agents": each topic fills its own."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.batches = {QUERIES: Batch(1), FEEDBACK: Batch(1)}

    def use(self, topic: str) -> None:
        self.batch = self.batches[topic]

    def turn(self, *, hold_shards: bool = False) -> Batch:
        closed = super().turn(hold_shards=hold_shards)
        topic = next(topic for topic, batch in self.batches.items() if batch is closed)
        self.batches[topic] = self.batch
        return closed


def catalog() -> Catalog:
    known = Catalog()
    known._known = {model: Arm(model, 1.0, 100.0 if model == "large" else 10.0) for model in MODELS}
    return known


CATALOG, OBSERVER = catalog(), Observers()
SETTINGS = {
    (ttl_s, park_s): Settings(
        topic_prefix="sim.", embedding_dim=DIMENSION, budget_window_s=WINDOW_S, decision_detail="chosen",
        worker_id="sim", decision_ttl_s=ttl_s, park_s=park_s,
    )
    for ttl_s in TTLS_S for park_s in PARKS_S
}  # fmt: skip


@dataclass
class _Sending:
    batch: Batch
    stages: list[list[tuple[str, Records]]]
    covered: list[tuple[str, int]]
    next_stage: int = 0
    open_sends: int = 0


class Life:
    """One worker from its start to its crash, or to the end of the world."""

    def __init__(
        self, world: World, broker: Broker, disk: Disk, variant: Variant, rng: random.Random, *, zombie: Life | None
    ) -> None:
        self.world, self.broker, self.disk, self.variant, self.rng = world, broker, disk, variant, rng
        self.zombie = zombie
        broker.owner = self
        disk.recover(broker)
        state = State(self._pending, self._spend, self._shard)
        state.pending._limit = state.spend._limit = 3  # evict all the time: nothing unacknowledged may go
        self.journal = _SplitJournal(state) if variant.split_batches else Journal(state)
        self.read = dict(broker.committed)
        self.done = dict(broker.committed)
        self.probed: dict[str, tuple[int, int]] = {}
        self.reached: dict[str, int] = {}
        self.encoding: deque[tuple[SourceRecord, Any, Any]] = deque()
        self.covered: dict[int, list[tuple[str, int]]] = {}
        self.pipelines: dict[str, deque[_Sending]] = {QUERIES: deque(), FEEDBACK: deque()}
        self.flying: dict[str, deque[tuple[Records, _Sending]]] = {place: deque() for place in PLACES}
        self._start_agents()

    def _start_agents(self) -> None:
        settings, tenure = (
            SETTINGS[self.world.ttl_s, self.world.park_s],
            SimpleNamespace(journal=self.journal, began=[]),
        )
        budgets = Budgets()
        budgets._limits["u1"] = LIMIT_NANOS
        shared: Any = {"settings": settings, "partitions": 1, "tenure": tenure, "observer": OBSERVER}
        self.sweeper = Sweeper(**shared, tables=self, committed=self._committed, clock=Clock(self.broker))  # type: ignore[arg-type]
        shared |= {"sweeper": self.sweeper, "catalog": CATALOG}
        self.route = RouteHandler(**shared, router=Rule(), projection=Projection(), encoder=None, budgets=budgets)  # type: ignore[arg-type]
        self.settle = SettleHandler(**shared)

    def run(self, crashes: bool) -> bool:
        """Live; whether everything was processed."""
        steps: tuple[Callable[[], None], ...] = (
            self._consume, self._encoded, self._flush, self._send, self._acknowledge, self._commit, self._tick,
            self._sweep,
        )  # fmt: skip
        until = list(accumulate((45, 15, 10, 25, 20, 8, 5, 8)))
        while True:
            if crashes and self.rng.random() < 0.015:
                self._crash()
                return False
            if self._finished:
                return True
            self.rng.choices(steps, cum_weights=until)[0]()
            if self.zombie is not None and self.rng.random() < 0.1:
                self.rng.choice((self.zombie._send, self.zombie._acknowledge))()

    def outlive(self) -> None:
        """Go on without new records until all of it must have expired."""
        for _ in range(12):
            self.broker.now += 50_000
            for _ in range(3):
                self._probe()
                self._probe()
                self._sweep()
                self.broker.now += 6_000
                while not self._finished:
                    self.rng.choice((self._flush, self._send, self._acknowledge))()
                self.broker.committed = dict(self.done)
        self.broker.kept = tuple(f"{table} {key}" for table in ("pending", "spend") for key in self.disk.data[table])

    @property
    def _finished(self) -> bool:
        if self.covered or self.journal.batch.shards or self.encoding:
            return False
        if self.pipelines[QUERIES] or self.pipelines[FEEDBACK]:
            return False
        unread = any(self.read[topic] < len(self.world.log(topic)) for topic in self.read)
        return not (unread or any(self.flying.values()))

    def _tick(self) -> None:
        self.broker.now += self.rng.randrange(2_500)
        self._probe()

    def _probe(self) -> None:
        """What `Progress` learns of the broker: when the commits had reached what was the end then."""
        for topic in self.read:
            end, at = self.probed.get(topic) or (self._end(topic), self.broker.now)
            if self.broker.committed[topic] >= end:
                self.reached[topic] = at
                end, at = self._end(topic), self.broker.now
            self.probed[topic] = (end, at)

    def _committed(self, topic: str, _: int) -> int | None:
        if self.broker.now - self.reached.get(topic, 0) > CURRENT_MS:
            return None
        return self.broker.committed[topic]

    def _end(self, topic: str) -> int:
        log, end = self.world.log(topic), self.probed.get(topic, (0, 0))[0]
        while end < len(log) and log[end].timestamp <= self.broker.now:
            end += 1
        return end

    def _sweep(self) -> None:
        if self.sweeper.sweep():
            self.covered.setdefault(id(self.journal.batch), [])

    def _consume(self) -> None:
        now = self.broker.now
        logs = [(topic, self.world.log(topic), offset) for topic, offset in self.read.items()]
        ready = [(topic, log[at]) for topic, log, at in logs if at < len(log) and log[at].timestamp <= now]
        if not ready:
            if not (self.covered or self.pipelines[QUERIES]):
                self._tick()
            return
        topic, record = self.rng.choice(ready)
        self.read[topic] += 1
        if topic == FEEDBACK:
            self._handle(self.settle, record, self._prepared(self.settle, record))
        elif self.encoding or self.rng.random() < 0.3:
            self.encoding.append((record, self._prepared(self.route, record), self._known(record)))
        else:
            self._handle(self.route, record, self._prepared(self.route, record))

    def _prepared(self, agent: Any, record: SourceRecord) -> Any:
        """Decoding is pure, and every replay would repeat it."""
        self.sweeper.clock.observe(record.timestamp)
        place = (record.topic, record.offset)
        if place not in self.world.prepared:
            self.world.prepared[place] = agent.prepare(record)
        return self.world.prepared[place]

    def _encoded(self) -> None:
        if not self.encoding:
            return
        record, prepared, known = self.encoding.popleft()
        if self.variant.reread:
            self._handle(self.route, record, prepared)
            return
        cache, key = self.journal.state.pending, self._key(record)
        original = cache.get
        cache.get = lambda partition, asked: known if asked == key else original(partition, asked)  # type: ignore[method-assign]
        self._handle(self.route, record, prepared)
        del cache.get

    def _known(self, record: SourceRecord) -> Any:
        return None if self.variant.reread else self.journal.state.pending.get(0, self._key(record))

    def _key(self, record: SourceRecord) -> bytes:
        event = self.world.events[record.topic, record.offset]
        return codecs.pack_pending_key(event["user_id"], event["query_id"])

    def _handle(self, agent: Any, record: SourceRecord, prepared: Any) -> None:
        if isinstance(self.journal, _SplitJournal):
            self.journal.use(record.topic)
        agent.handle(record, prepared)
        self.covered.setdefault(id(self.journal.batch), []).append((record.topic, record.offset))
        if self.variant.commit == "when handled":
            self.done[record.topic] = record.offset + 1

    def _flush(self) -> None:
        if not self.covered and not self.journal.batch.shards:
            return
        pipe = QUERIES
        if isinstance(self.journal, _SplitJournal):
            pipe = self.rng.choice((QUERIES, FEEDBACK))
            self.journal.use(pipe)
        covered = self.covered.pop(id(self.journal.batch), None)
        if covered is None and not self.journal.batch.shards:
            return
        batch, covered = self._turn(covered or [])
        records = self._records(batch)
        if self.variant.store == "ahead":
            for table in TABLES:
                self.disk.write(table, records[table])
        stages = [
            [(topic, records[topic]) for topic in stage if records[topic]] for stage in STAGES[self.variant.order]
        ]
        self.pipelines[pipe].append(_Sending(batch, stages, covered))

    def _turn(self, covered: list[tuple[str, int]]) -> tuple[Batch, list[tuple[str, int]]]:
        """Close the batch, with its shards or without, and what is done when it is acknowledged."""
        if self.variant.split_batches or self.rng.random() < 0.5 or not self.journal.batch.shards:
            return self.journal.turn(), covered
        batch = self.journal.turn(hold_shards=True)
        if self.variant.held_shards == "done":
            return batch, covered
        self.covered[id(self.journal.batch)] = covered
        return batch, []

    def _records(self, batch: Batch) -> dict[str, Records]:
        """The values as they are now, as `Tables.plan` takes them."""
        state = self.journal.state
        return {
            "pending": [(key, _packed(codecs.pack_pending, state.pending.get(0, key))) for key in batch.pending],
            "spend": [(key, _packed(codecs.pack_spend, state.spend.get(0, key))) for key in batch.spend],
            "arms": [(key, _packed(Shard.pack, state.shards.get(0, key))) for key in batch.shards],
            "out": [(output.topic, output) for output in batch.outputs],
        }

    def _send(self) -> None:
        """Let one batch enter its next stage; none overtakes, and a stage waits for the one before."""
        if self.broker.owner is not self and self.variant.owned:
            return
        pipe = self.pipelines[self.rng.choice((QUERIES, FEEDBACK)) if self.variant.split_batches else QUERIES]
        ahead = len(STAGES[self.variant.order])
        for sending in pipe:
            if sending.open_sends == 0 and sending.next_stage < ahead:
                stage = sending.stages[sending.next_stage]
                sending.next_stage += 1
                sending.open_sends = len(stage)
                self.rng.shuffle(stage)
                for topic, records in stage:
                    self.flying[topic].append((records, sending))
                break
            ahead = sending.next_stage - (1 if sending.open_sends else 0)
        self._finish(pipe)

    def _finish(self, pipe: deque[_Sending]) -> None:
        while pipe and pipe[0].next_stage == len(STAGES[self.variant.order]) and pipe[0].open_sends == 0:
            sending = pipe.popleft()
            for topic, offset in sending.covered:
                self.done[topic] = max(self.done[topic], offset + 1)
            for call in sending.batch.delivered:
                call()
            self.journal.state.evict(sending.batch.number if self.variant.evict == "acknowledged" else 10**9)

    def _commit(self) -> None:
        self.broker.committed = dict(self.done)

    def _acknowledge(self) -> None:
        topic = self.rng.choice([place for place in PLACES if self.flying[place]] or ["out"])
        if not self.flying[topic]:
            return
        records, sending = self.flying[topic].popleft()
        sending.open_sends -= 1
        self.broker.append(topic, records)
        if topic in TABLES and self.broker.owner is self:
            if self.variant.store != "ahead":
                self.disk.write(topic, records)
            self.disk.followed[topic] = len(self.broker.logs[topic])

    def _crash(self) -> None:
        """Some of what was in flight still arrives; a zombie that checks ownership has nothing else."""
        for topic, flying in self.flying.items():
            while flying and self.rng.random() < 0.5:
                records, sending = flying.popleft()
                sending.open_sends -= 1
                self.broker.append(topic, records)
            if self.variant.owned:
                flying.clear()

    def pending_items(self) -> list[tuple[bytes, bytes]]:
        return list(self.disk.data["pending"].items())

    def spend_keys(self) -> list[SpendKey]:
        return list(self.disk.data["spend"])

    def _pending(self, _: int, key: bytes) -> Any:
        value = self.disk.data["pending"].get(key)
        return None if value is None else codecs.unpack_pending(value)

    def _spend(self, _: int, key: SpendKey) -> Any:
        value = self.disk.data["spend"].get(key)
        return None if value is None else codecs.unpack_spend(value)

    def _shard(self, _: int, key: ShardKey) -> Any:
        value = self.disk.data["arms"].get(key)
        return None if value is None else Shard.unpack(value)


def _packed(pack: Callable[[Any], bytes], value: Any) -> bytes | None:
    return None if value is None else pack(value)


def live(world: World, variant: Variant, rng: random.Random) -> Broker:
    """Process the world through crashes, on either of two workers, to its end; often wait until it is forgotten."""
    broker, disks, crashes = Broker(), (Disk(), Disk()), rng.randrange(7)
    broker.now = world.end_ms if world.backlog else START_MS
    life: Life | None = None
    while True:
        disk = Disk() if variant.store == "memory" else rng.choice(disks)
        life = Life(world, broker, disk, variant, rng, zombie=life if rng.random() < 0.5 else None)
        if life.run(crashes=crashes > 0):
            if rng.random() < 0.3:
                life.outlive()
            return broker
        crashes -= 1
