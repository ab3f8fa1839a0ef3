"""Both agents' handlers over one journal, with the real router and projection, without Kafka."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.unit.stream.doubles import FEEDBACK, PARTITIONS, QUERIES, Notebook
from worker import codecs
from worker.core.fence import Event
from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.core.prior import Prior
from worker.core.router import Router, RouterOptions
from worker.core.shard import Shard
from worker.core.statistics import ArmStatistics
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog
from worker.kafka.partitioning import partition_of
from worker.settings import Settings
from worker.stream.batch import Batch, Headers, Journal, Output, SourceRecord
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import SpendKey
from worker.stream.sweep import BrokerClock

MIDNIGHT = 19_675 * 86_400
START_MS = MIDNIGHT * 1000
EMBEDDING = [1.0] * 384


@dataclass
class Swept:
    """What the sweeper was asked to watch."""

    pending: list[bytes]
    windows: list[SpendKey]
    mentioned: list[tuple[bytes, Event]] = field(default_factory=list)
    clock: BrokerClock = field(default_factory=BrokerClock)

    def watch(self, partition: int, key: bytes, pending: Pending) -> None:
        del partition, pending
        self.pending.append(key)

    def watch_window(self, partition: int, key: SpendKey) -> None:
        del partition
        self.windows.append(key)

    def mention(self, partition: int, key: bytes, event: Event) -> None:
        del partition
        self.mentioned.append((key, event))


class Encoder:
    """The encoder's port: the same embedding for every text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def encode(self, text: str) -> Any:
        self.texts.append(text)
        await asyncio.sleep(0)
        return np.ones(384, dtype=np.float32)


class Agents:
    """Feed records, look at state and at what leaves."""

    def __init__(self, settings: Settings, journal: Journal, prior: Prior, **options: Any) -> None:
        self.journal, self.notebook = journal, Notebook()
        self.swept, self.encoder = Swept([], []), Encoder()
        self.router = Router(prior, RouterOptions(**options))
        self.catalog = Catalog(on_change=lambda: self.router.set_arms(self.catalog.arms))
        self.budgets = Budgets()
        shared: Any = {
            "settings": settings,
            "partitions": PARTITIONS,
            "tenure": SimpleNamespace(journal=journal),
            "sweeper": self.swept,
            "catalog": self.catalog,
            "observer": self.notebook,
            "learning_share": options.get("learning_share"),
        }
        self.route = RouteHandler(
            **shared, router=self.router, projection=prior.projection, encoder=self.encoder, budgets=self.budgets
        )
        self.settle = SettleHandler(**shared)
        self.offsets = {QUERIES: 0, FEEDBACK: 0}

    def model(self, name: str, output_usd_per_mtok: float = 10.0, **fields: Any) -> None:
        """Put a model on the control topic."""
        prices = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": output_usd_per_mtok}
        value = json.dumps({"model": name, **prices, **fields}).encode()
        self.catalog.apply(Record(0, 0, 0, name.encode(), value))

    def without_model(self, name: str) -> None:
        self.catalog.apply(Record(0, 0, 0, name.encode(), None))

    def budget(self, user: str, limit_usd: float) -> None:
        self.budgets.apply(Record(0, 0, 0, user.encode(), json.dumps({"limit_usd": limit_usd}).encode()))

    def record(
        self,
        topic: str,
        event: dict[str, Any] | bytes | None,
        *,
        at_ms: int = START_MS,
        headers: Headers = (),
        **place: Any,
    ) -> SourceRecord:
        """The next record of a topic, on the partition of its user unless said otherwise."""
        offset = place.get("offset", self.offsets[topic])
        self.offsets[topic] = max(self.offsets[topic], offset + 1)
        value = json.dumps(event).encode() if isinstance(event, dict) else event
        user = str(event.get("user_id", "")) if isinstance(event, dict) else ""
        key = place.get("key", user.encode())
        partition = place.get("partition", partition_of(user.encode(), PARTITIONS))
        return SourceRecord(topic, partition, offset, at_ms, key, value, headers)

    def handle(self, record: SourceRecord) -> list[Output]:
        """What an agent does with one record whose preparation takes no time; what it emits."""
        handler: Any = self.route if record.topic == QUERIES else self.settle
        before = len(self.journal.batch.outputs)
        handler.handle(record, handler.prepare(record))
        return self.journal.batch.outputs[before:]

    def query(self, query_id: str = "q", user_id: str = "u", **fields: Any) -> list[Output]:
        """Ask; keyword arguments of `record` after the event's fields."""
        place = {
            name: fields.pop(name) for name in ("at_ms", "headers", "offset", "key", "partition") if name in fields
        }
        event = {"query_id": query_id, "user_id": user_id, "embedding": EMBEDDING, "input_tokens": 100, **fields}
        return self.handle(self.record(QUERIES, event, **place))

    def say(self, query_id: str = "q", user_id: str = "u", **fields: Any) -> list[Output]:
        """Send feedback."""
        place = {
            name: fields.pop(name) for name in ("at_ms", "headers", "offset", "key", "partition") if name in fields
        }
        return self.handle(self.record(FEEDBACK, {"query_id": query_id, "user_id": user_id, **fields}, **place))

    def pending(self, query_id: str = "q", user_id: str = "u") -> Pending | None:
        lane = partition_of(user_id.encode(), PARTITIONS)
        return self.journal.state.pending.get(lane, codecs.pack_pending_key(user_id, query_id))

    def spend(self, user_id: str = "u", window: int = MIDNIGHT) -> Spend:
        lane = partition_of(user_id.encode(), PARTITIONS)
        return self.journal.state.spend.get(lane, SpendKey(user_id, window)) or Spend()

    def learned(self, model: str) -> ArmStatistics | None:
        """The sums of a model over the partitions of this worker."""
        entries: dict[Any, tuple[Shard | None, int]] = self.journal.state.shards._entries
        return next((shard.statistics for key, (shard, _) in entries.items() if shard and key.model == model), None)

    def deliver(self) -> Batch:
        """Acknowledge the current batch."""
        batch = self.journal.turn()
        for call in batch.delivered:
            call()
        return batch


def content(output: Output) -> Any:
    return json.loads(output.value or b"")


def code(output: Output) -> str:
    """The code of a dead letter."""
    assert output.topic == "t.dead-letters"
    return (dict(output.headers)["pilot.error.code"] or b"").decode()
