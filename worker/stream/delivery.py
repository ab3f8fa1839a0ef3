"""Delivery: the one port through which every record leaves, changelogs and outputs alike.

Records of one topic partition travel in our own record batches, in order. How they
are batched decides the speed, and this is the only file to change for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from worker.errors import ExitCode, WorkerMustStop
from worker.kafka.topics import SOURCE_MAX_BYTES
from worker.stream.batch import Headers

_NO_TIMESTAMP = -1  # a record without a date, as the protocol has it


class Outgoing(NamedTuple):
    """One record of a topic partition."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """A record batch under way; `acknowledged` resolves to the broker's metadata or fails for good.

    `at_ms` is the broker's time, as far as it is known, when it was queued; 0: not known.
    """

    acknowledged: asyncio.Future[Any]
    records: int
    at_ms: int = 0


class Delivery(Protocol):
    """Sends records; returns when they are queued in order."""

    async def send(self, topic: str, partition: int, records: Sequence[Outgoing]) -> list[Sent]:
        """Queue the records of one topic partition, in order."""


class KafkaDelivery:
    """Delivery through an idempotent aiokafka producer.

    Records are dated by `now_ms`, the broker's time as far as it is known (0: not yet),
    because this machine's clock may be wrong: brokers refuse a date an hour ahead
    (KIP-937), and retention deletes what is dated days back at once.
    """

    def __init__(self, producer: Any, now_ms: Callable[[], int]) -> None:
        self._producer = producer
        self._now_ms = now_ms

    async def send(self, topic: str, partition: int, records: Sequence[Outgoing]) -> list[Sent]:
        """Queue the records of one topic partition, in as few record batches as fit."""
        sent: list[Sent] = []
        now = self._now_ms() or _NO_TIMESTAMP
        builder, count = self._producer.create_batch(), 0
        for record in records:
            huge = _size(record) > SOURCE_MAX_BYTES
            if huge or not _append(builder, record, now):
                if count:
                    sent.append(await self._queue(builder, topic, partition, count, now))
                builder, count = _compressed() if huge else self._producer.create_batch(), 0
                _append(builder, record, now)  # the first record of a batch always fits
            count += 1
        if count:
            sent.append(await self._queue(builder, topic, partition, count, now))
        return sent

    async def _queue(self, builder: Any, topic: str, partition: int, count: int, now: int) -> Sent:
        try:
            return Sent(await self._producer.send_batch(builder, topic, partition=partition), count, max(now, 0))
        except KafkaError as error:  # the batch before it has not left for a minute
            raise undeliverable(error) from error


def undeliverable(error: Exception) -> WorkerMustStop:
    """What a send that the client gave up means: exit 72, or 73 if a new owner's claim refused it."""
    if isinstance(error, ProducerFenced):
        return WorkerMustStop(ExitCode.LEASE_LOST, "another worker has taken over: a late write was refused")
    return WorkerMustStop(ExitCode.SEND_FAILED, f"a send failed for good: {error!r}")


def _size(record: Outgoing) -> int:
    return len(record.value or b"") + sum(len(value or b"") for _, value in record.headers)


def _compressed() -> BatchBuilder:
    """A batch for one record larger than what sources take: it came compressed, and only so does it fit again."""
    return BatchBuilder(0, DefaultRecordBatch.CODEC_ZSTD)


def _append(builder: Any, record: Outgoing, now: int) -> bool:
    appended = builder.append(
        key=record.key, value=record.value, timestamp=now, headers=[(name, value) for name, value in record.headers]
    )
    return appended is not None
