"""Doubles at the ports of the stream shell: a broker that acknowledges when told, events, an owner, an observer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.subscription_state import Assignment
from aiokafka.structs import TopicPartition

from worker.kafka.logs import Log
from worker.kafka.topics import TABLES
from worker.observe.records import Record
from worker.settings import Settings
from worker.stream import app
from worker.stream.batch import Headers
from worker.stream.contiguity import SourcePosition
from worker.stream.delivery import Outgoing, Sent
from worker.stream.store import MemoryStore, Store
from worker.stream.tables import Tables

QUERIES, FEEDBACK = "t.queries", "t.feedback"
PARTITIONS = 4


def settings(**changes: Any) -> Settings:
    return Settings(**{"topic_prefix": "t.", "worker_id": "w", "embedding_dim": 3, **changes})


def assignment(*partitions: tuple[str, int]) -> Assignment:
    """A real aiokafka assignment, as the consumer thread makes one at each rebalance."""
    return Assignment([TopicPartition(*tp) for tp in partitions or ((QUERIES, 0), (FEEDBACK, 0))])


def position(
    owner: Assignment | None = None, topic: str = QUERIES, partition: int = 0, start: int = 0
) -> SourcePosition:
    owner = owner or assignment((topic, partition))
    tp = TopicPartition(topic, partition)
    return SourcePosition(tp, owner.state_value(tp), start)


def logs(
    *partitions: int, topic_id: str = "first", beginning: int = 0, end: int = 1_000_000
) -> dict[int, dict[str, Log]]:
    """What a broker says of the changelogs of these partitions, or of all."""
    return {
        partition: {table: Log(topic_id, beginning, end) for table in TABLES}
        for partition in partitions or range(PARTITIONS)
    }


def held_tables(configured: Settings, store: Store | None = None) -> Tables:
    """Tables of a real Faust app that was never started, of all partitions."""
    tables = Tables(app._faust_app(configured, PARTITIONS), configured, PARTITIONS, store or MemoryStore(TABLES))
    tables.take_over(logs())
    return tables


class Event:
    """A Faust event that is a chunk of one record, with what our hook gives a record."""

    def __init__(
        self,
        at: SourcePosition,
        offset: int,
        *,
        previous: int | None = None,
        value: bytes | None = b"{}",
        key: bytes | None = b"user",
        headers: Headers | None = (),
        timestamp: int = 1_000,
    ) -> None:
        self.acked = 0
        self.message = SimpleNamespace(
            topic=at.tp.topic,
            partition=at.tp.partition,
            offset=offset,
            previous_offset=offset - 1 if previous is None else previous,
            source_position=at,
            timestamp=timestamp,
            key=key,
            value=value,
            headers=headers,
        )
        self.value = [self.message]

    def ack(self) -> None:
        self.acked += 1


class Stream:
    """What a Faust agent is given: some events and then the end."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def noack(self) -> Stream:
        return self

    async def events(self) -> Any:
        for event in self._events:
            yield event
            await asyncio.sleep(0)


@dataclass
class Sending:
    """One call of the delivery port, open until it is acknowledged."""

    topic: str
    partition: int
    records: list[Outgoing]
    future: asyncio.Future[Any]


class ManualDelivery:
    """The delivery port: acknowledges, or fails for good, when the test says so."""

    def __init__(self) -> None:
        self.sent: list[Sending] = []
        self._offset = 0

    async def send(self, topic: str, partition: int, records: Sequence[Outgoing]) -> list[Sent]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent.append(Sending(topic, partition, list(records), future))
        return [Sent(future, len(records))]

    @property
    def topics(self) -> list[str]:
        return [sending.topic for sending in self.sent]

    def acknowledge(self, *topics: str) -> None:
        """Everything open on these topics, or everything open."""
        for sending in self.sent:
            if not topics or sending.topic in topics:
                self.acknowledge_one(sending)

    def acknowledge_one(self, sending: Sending) -> None:
        if not sending.future.done():
            metadata = SimpleNamespace(topic=sending.topic, partition=sending.partition, offset=self._offset)
            sending.future.set_result(metadata)
            self._offset += len(sending.records)

    def fail(self, error: Exception) -> None:
        for sending in self.sent:
            if not sending.future.done():
                sending.future.set_exception(error)


@dataclass
class Owner:
    """Whether this worker may write; both answers can be changed at any time."""

    doubtful: bool = False
    lost: bool = False

    def owns(self, assignment: Any, generation: int | None) -> bool:
        del assignment, generation
        return not self.lost


@dataclass
class Notebook:
    """An observer that remembers."""

    records: list[Record] = field(default_factory=list)

    def observe(self, record: Record) -> None:
        self.records.append(record)

    def of(self, kind: type) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]


async def settle_down() -> None:
    """Let every task that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)
