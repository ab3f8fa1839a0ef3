"""The delivery protocol without Kafka: real handlers and codecs over a simulated broker that crashes at any point.

A `Variant` breaks one rule of the protocol; the tests show that each broken rule is caught.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.simulation.world import DIMENSION, FEEDBACK, MODELS, QUERIES, WINDOW_S, World
from worker import codecs
from worker.core.arms import Arm
from worker.core.shard import Shard, ShardKey
from worker.core.verdict import Account, Candidate, Request, Verdict
from worker.kafka.control import Budgets, Catalog
from worker.observe import Observers
from worker.settings import Settings
from worker.stream.batch import Batch, Journal
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import SpendKey, State

TABLES = ("pending", "spend", "arms")
LIMIT_NANOS = 700_000_000
STAGES = {
    "pending first": (("pending",), ("spend", "arms", "out")),
    "effects first": (("spend", "arms"), ("pending", "out")),
    "all at once": (("pending", "spend", "arms", "out"),),
}


@dataclass(frozen=True)
class Variant:
    """How records leave and where state is read from; the defaults are the worker's."""

    order: str = "pending first"
    split_batches: bool = False
    store: str = "after acknowledgement"  # or "ahead", or "memory"
    held_shards: str = "not done"  # what is covered while its shards wait; or "done"


@dataclass
class Broker:
    """Everything durable: the logs that workers write, and the committed offsets."""

    logs: dict[str, list[tuple[Any, Any]]] = field(default_factory=lambda: {t: [] for t in (*TABLES, "out")})
    committed: dict[str, int] = field(default_factory=lambda: {QUERIES: 0, FEEDBACK: 0})


@dataclass
class Disk:
    """One worker's local store, which survives a crash, and how far it follows each changelog."""

    data: dict[str, dict[Any, bytes]] = field(default_factory=lambda: {t: {} for t in TABLES})
    followed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))

    def recover(self, broker: Broker) -> None:
        for table in TABLES:
            for key, value in broker.logs[table][self.followed[table] :]:
                self.data[table][key] = value
            self.followed[table] = len(broker.logs[table])


class _Rule:
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


class _Projection:
    fingerprint = "sim"

    def contexts(self, embeddings: np.ndarray, texts: object, tasks: object) -> np.ndarray:
        del texts, tasks
        return embeddings.astype(np.float32).astype(np.float64)


class _Tenure:
    def __init__(self, journal: Any) -> None:
        self.journal = journal


class _NoSweeper:
    def watch(self, *_: object) -> None: ...
    def watch_window(self, *_: object) -> None: ...
    def mention(self, *_: object) -> None: ...


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


SETTINGS = Settings(
    topic_prefix="sim.", embedding_dim=DIMENSION, budget_window_s=WINDOW_S, decision_detail="chosen", worker_id="sim"
)


def catalog() -> Catalog:
    known = Catalog()
    known._known = {model: Arm(model, 1.0, 100.0 if model == "large" else 10.0) for model in MODELS}
    return known


@dataclass
class _Sending:
    batch: Batch
    stages: list[list[tuple[str, list[tuple[Any, Any]]]]]
    covered: list[tuple[str, int]]
    next_stage: int = 0
    open_sends: int = 0


class Life:
    """One worker from its start to its crash, or to the end of the world."""

    def __init__(self, world: World, broker: Broker, disk: Disk, variant: Variant, rng: random.Random) -> None:
        self.world, self.broker, self.disk, self.variant, self.rng = world, broker, disk, variant, rng
        disk.recover(broker)
        state = State(self._pending, self._spend, self._shard)
        state.pending._limit = state.spend._limit = 3  # evict all the time: nothing unacknowledged may go
        self.journal = _SplitJournal(state) if variant.split_batches else Journal(state)
        tenure: Any = _Tenure(self.journal)
        budgets = Budgets()
        budgets._limits["u1"] = LIMIT_NANOS
        common: Any = {
            "settings": SETTINGS, "partitions": 1, "tenure": tenure, "sweeper": _NoSweeper(), "catalog": catalog(),
            "observer": Observers(),
        }  # fmt: skip
        self.route = RouteHandler(**common, router=_Rule(), projection=_Projection(), encoder=None, budgets=budgets)  # type: ignore[arg-type]
        self.settle = SettleHandler(**common)
        self.read = dict(broker.committed)
        self.done = dict(broker.committed)
        self.covered: dict[int, list[tuple[str, int]]] = {}
        self.pipelines: dict[str, deque[_Sending]] = {QUERIES: deque(), FEEDBACK: deque()}
        self.flying: dict[str, deque[tuple[list[tuple[Any, Any]], _Sending]]] = {t: deque() for t in (*TABLES, "out")}

    def run(self, crashes: bool) -> bool:
        """Live; whether everything was processed."""
        while True:
            if crashes and self.rng.random() < 0.02:
                self._crash()
                return False
            if self._finished:
                return True
            self.rng.choices((self._consume, self._flush, self._send, self._acknowledge), (45, 10, 25, 20))[0]()

    @property
    def _finished(self) -> bool:
        unread = any(self.read[topic] < len(self.world.log(topic)) for topic in self.read)
        held = self.journal.batch.shards
        return not (unread or self.covered or held or any(self.pipelines.values()) or any(self.flying.values()))

    def _consume(self) -> None:
        topics = [topic for topic in self.read if self.read[topic] < len(self.world.log(topic))]
        if not topics:
            return
        topic = self.rng.choice(topics)
        record = self.world.log(topic)[self.read[topic]]
        self.read[topic] += 1
        if isinstance(self.journal, _SplitJournal):
            self.journal.use(topic)
        handler: Any = self.route if topic == QUERIES else self.settle
        handler.handle(record, handler.prepare(record))
        self.covered.setdefault(id(self.journal.batch), []).append((topic, record.offset))

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
                self.disk.data[table].update(records[table])
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

    def _records(self, batch: Batch) -> dict[str, list[tuple[Any, Any]]]:
        """The values as they are now, as `Tables.plan` takes them."""
        state = self.journal.state
        pending = [(key, codecs.pack_pending(state.pending.get(0, key) or _missing())) for key in batch.pending]
        spend = [(key, codecs.pack_spend(state.spend.get(0, key) or _missing())) for key in batch.spend]
        arms = [(key, (state.shards.get(0, key) or _missing()).pack()) for key in batch.shards]
        outputs = [(output.topic, output) for output in batch.outputs]
        return {"pending": pending, "spend": spend, "arms": arms, "out": outputs}

    def _send(self) -> None:
        """Let one batch enter its next stage; none overtakes, and a stage waits for the one before."""
        pipe = self.pipelines[self.rng.choice((QUERIES, FEEDBACK))]
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
            self.journal.state.evict(sending.batch.number)
        if self.rng.random() < 0.4:
            self.broker.committed = dict(self.done)

    def _acknowledge(self) -> None:
        topic = self.rng.choice((*TABLES, "out"))
        if not self.flying[topic]:
            return
        records, sending = self.flying[topic].popleft()
        sending.open_sends -= 1
        self._append(topic, records)
        if topic in TABLES:
            if self.variant.store != "ahead":
                self.disk.data[topic].update(records)
            self.disk.followed[topic] = len(self.broker.logs[topic])

    def _append(self, topic: str, records: list[tuple[Any, Any]]) -> None:
        self.broker.logs[topic].extend(records)

    def _crash(self) -> None:
        """Some of what was in flight still arrives."""
        for topic, flying in self.flying.items():
            while flying and self.rng.random() < 0.5:
                self._append(topic, flying.popleft()[0])

    def _pending(self, _: int, key: bytes) -> Any:
        value = self.disk.data["pending"].get(key)
        return None if value is None else codecs.unpack_pending(value)

    def _spend(self, _: int, key: SpendKey) -> Any:
        value = self.disk.data["spend"].get(key)
        return None if value is None else codecs.unpack_spend(value)

    def _shard(self, _: int, key: ShardKey) -> Any:
        value = self.disk.data["arms"].get(key)
        return None if value is None else Shard.unpack(value)


def _missing() -> Any:
    raise AssertionError("a batch names a key that has no value")


def live(world: World, variant: Variant, rng: random.Random) -> Broker:
    """Process the world through crashes, on either of two workers, to its end."""
    broker, disks, crashes = Broker(), (Disk(), Disk()), rng.randrange(7)
    while True:
        disk = Disk() if variant.store == "memory" else rng.choice(disks)
        if Life(world, broker, disk, variant, rng).run(crashes=crashes > 0):
            return broker
        crashes -= 1
