"""Delivery: records of one topic partition in as few batches as fit, in order. With aiokafka's own batches."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from worker.errors import ExitCode, WorkerMustStop
from worker.kafka.topics import SOURCE_MAX_BYTES
from worker.stream.delivery import KafkaDelivery, Outgoing

BATCH_BYTES = 1_000


class Producer:
    """Builds batches as aiokafka does and keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, list[Any]]] = []
        self.dates: list[int] = []
        self.sizes: list[int] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(BATCH_BYTES, 0)

    async def send_batch(self, builder: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        builder.close()
        built = bytes(builder._build())
        self.sizes.append(len(built))
        records = MemoryRecords(built)
        read = []
        while records.has_next():
            batch = list(records.next_batch())
            read += [(one.key, one.value, list(one.headers)) for one in batch]
            self.dates += [one.timestamp for one in batch]
        self.sent.append((topic, partition, read))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(SimpleNamespace(offset=0))
        return future


async def test_records_travel_together_in_order() -> None:
    """Small records share one batch; keys, values, headers and nulls arrive as they are."""
    producer = Producer()
    records = [
        Outgoing(b"a", b"1", (("trace", b"x"), ("empty", None))),
        Outgoing(b"b", None),
        Outgoing(None, b""),
    ]
    (sent,) = await KafkaDelivery(producer, lambda: 1_000).send("t.decisions", 3, records)
    assert sent.records == 3
    assert producer.sent == [
        ("t.decisions", 3, [
            (b"a", b"1", [("trace", b"x"), ("empty", None)]), (b"b", None, []), (None, b"", []),
        ]),
    ]  # fmt: skip


async def test_full_batch_is_followed_by_another() -> None:
    """What does not fit goes into the next batch; each says how many records it has."""
    producer = Producer()
    records = [Outgoing(b"%d" % number, b"x" * 300) for number in range(8)]
    sent = await KafkaDelivery(producer, lambda: 1_000).send("t", 0, records)
    assert [part.records for part in sent] == [len(read) for _, _, read in producer.sent]
    assert len(sent) > 1
    assert [key for _, _, read in producer.sent for key, _, _ in read] == [b"%d" % number for number in range(8)]


async def test_record_larger_than_a_batch_travels_alone() -> None:
    """A large record is not lost between two batches."""
    producer = Producer()
    records = [Outgoing(b"a", b"x"), Outgoing(b"b", b"x" * 5 * BATCH_BYTES), Outgoing(b"c", b"x")]
    sent = await KafkaDelivery(producer, lambda: 1_000).send("t", 0, records)
    assert [part.records for part in sent] == [1, 1, 1]
    assert [key for _, _, read in producer.sent for key, _, _ in read] == [b"a", b"b", b"c"]


async def test_nothing_sends_nothing() -> None:
    """No records, no batch."""
    producer = Producer()
    assert await KafkaDelivery(producer, lambda: 1_000).send("t", 0, []) == []
    assert producer.sent == []


async def test_record_larger_than_any_topic_takes_goes_alone_and_compressed() -> None:
    """It came compressed, so it must leave compressed; its neighbours keep their order and their plain batches."""
    producer = Producer()
    huge = b"x" * (SOURCE_MAX_BYTES + 1)
    records = [Outgoing(b"a", b"1"), Outgoing(b"b", huge), Outgoing(b"c", b"3"), Outgoing(b"d", b"4")]
    sent = await KafkaDelivery(producer, lambda: 1_000).send("t", 0, records)
    assert [part.records for part in sent] == [1, 1, 2]
    assert [(key, value) for _, _, read in producer.sent for key, value, _ in read] == [
        (b"a", b"1"), (b"b", huge), (b"c", b"3"), (b"d", b"4"),
    ]  # fmt: skip
    assert max(producer.sizes) < 10_000


async def test_send_that_finds_no_room_is_given_up() -> None:
    """When the batch before it has not left for the client's time-out, the worker must end with 72."""
    producer = Producer()

    async def full(*_: Any, **__: Any) -> Any:
        raise KafkaTimeoutError

    producer.send_batch = full  # type: ignore[method-assign]
    with pytest.raises(WorkerMustStop) as caught:
        await KafkaDelivery(producer, lambda: 0).send("t", 0, [Outgoing(b"a", b"1")])
    assert caught.value.code is ExitCode.SEND_FAILED


@pytest.mark.parametrize(("known_ms", "dated"), [(1_700_000_000_000, 1_700_000_000_000), (0, -1)])
async def test_records_are_dated_by_the_broker(known_ms: int, dated: int) -> None:
    """A record carries the broker's time, none at all before that is known, and never this machine's."""
    producer = Producer()
    await KafkaDelivery(producer, lambda: known_ms).send("t", 0, [Outgoing(b"a", b"1")])
    assert producer.dates == [dated]
