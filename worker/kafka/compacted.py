"""Reading a compacted topic to its end, and following it from there, without a consumer group.

"The end" is the last stable offset when reading began: everything committed before
the call has been delivered when the call returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from worker.errors import OperationFailed
from worker.kafka import connect
from worker.settings import Settings

_POLL_MS = 500
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log; value None is a tombstone, timestamp in ms since the epoch."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


OnRecord = Callable[[Record], None]


async def read_to_end(settings: Settings, topic: str, on_record: OnRecord) -> None:
    """Deliver every committed record that the topic has now, in partition order.

    Raises:
        OperationFailed: no broker, or no such topic.
    """
    async with connect.reader(settings, topic) as consumer:
        await _drain(consumer, _deliverer(on_record, {}))


async def latest(settings: Settings, topic: str) -> dict[bytes, Record]:
    """The last record of every key, tombstoned keys left out; records without key are skipped.

    Raises:
        OperationFailed: no broker, or no such topic.
    """
    table: dict[bytes, Record] = {}

    def keep(record: Record) -> None:
        if record.key is None:
            return
        if record.value is None:
            table.pop(record.key, None)
        else:
            table[record.key] = record

    await read_to_end(settings, topic, keep)
    return table


class Follower:
    """Reads one topic for as long as it runs; `caught_up` is set at the first end.

    An outage or a missing topic is retried from the position reached. What
    `on_record` raises ends the task, so the owner must watch it.
    """

    def __init__(self, settings: Settings, topic: str, on_record: OnRecord) -> None:
        self.topic = topic
        self.caught_up = asyncio.Event()
        self._settings = settings
        self._positions: dict[int, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._deliver = _deliverer(on_record, self._positions)

    @property
    def lag(self) -> int:
        """Records that the broker had at the last fetch and that are not delivered yet; 0 before the first one."""
        consumer = self._consumer
        if consumer is None:
            return 0
        ends = {tp.partition: consumer.highwater(tp) for tp in consumer.assignment()}
        return sum(max(0, (end or 0) - self._positions.get(number, 0)) for number, end in ends.items())

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except OperationFailed as error:
                _log.warning("cannot follow, trying again", topic=self.topic, error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        async with connect.reader(self._settings, self.topic) as consumer:
            self._consumer = consumer
            for tp in consumer.assignment():
                if tp.partition in self._positions:
                    consumer.seek(tp, self._positions[tp.partition])
            await _drain(consumer, self._deliver)
            self.caught_up.set()
            while True:
                await _poll(consumer, self._deliver)


def _deliverer(on_record: OnRecord, positions: dict[int, int]) -> Callable[[ConsumerRecord], None]:
    def deliver(raw: ConsumerRecord) -> None:
        on_record(Record(raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, raw.headers))
        positions[raw.partition] = raw.offset + 1

    return deliver


async def _drain(consumer: AIOKafkaConsumer, deliver: Callable[[ConsumerRecord], None]) -> None:
    ends = await consumer.end_offsets(list(consumer.assignment()))
    for tp, end in ends.items():
        # The position, not the last record's offset: markers and compacted records take offsets too.
        while await consumer.position(tp) < end:
            await _poll(consumer, deliver)


async def _poll(consumer: AIOKafkaConsumer, deliver: Callable[[ConsumerRecord], None]) -> None:
    for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
        for raw in records:
            deliver(raw)
