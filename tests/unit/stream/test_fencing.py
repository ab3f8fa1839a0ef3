"""The fence: which identity a batch carries, and when partitions are claimed. With aiokafka's own batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, ProducerFenced
from aiokafka.producer import message_accumulator
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import TopicPartition

from tests.unit.stream.doubles import ManualDelivery, settings, settle_down
from worker.errors import ExitCode, WorkerMustStop
from worker.stream import fencing
from worker.stream.delivery import undeliverable
from worker.stream.fencing import Claims, Identity

CHANGELOG, OUTPUT = TopicPartition("t-pending-changelog", 0), TopicPartition("t.decisions", 0)
CLIENT_S_OWN = (77, 0, 5)  # producer id, epoch and sequence that aiokafka would use
KEY = b"claim"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[TopicPartition, Identity]:
    monkeypatch.setattr(message_accumulator, "MessageBatch", MessageBatch)
    monkeypatch.setattr(fencing, "_identities", {})
    fencing.install()
    return fencing._identities


def queued(place: TopicPartition, records: int = 1) -> Any:
    """A batch as the producer queues it."""
    builder = BatchBuilder(10_000, 0, is_transactional=False, key_serializer=None, value_serializer=None)
    for _ in range(records):
        builder.append(key=b"key", value=b"value", timestamp=1_000)
    return message_accumulator.MessageBatch(place, builder, 30.0, 0.0)


def sent(batch: Any) -> tuple[int, int, int]:
    """Producer id, epoch and first sequence number that the broker would see."""
    batch.set_producer_state(*CLIENT_S_OWN)
    read = DefaultRecordBatch(bytes(batch.get_data_buffer()))
    return read.producer_id, read.producer_epoch, read.base_sequence


class TestIdentity:
    """What a batch is sent as."""

    async def test_unclaimed_topics_keep_the_client_s_own(self) -> None:
        """Decisions and dead letters leave as the producer they come from."""
        assert sent(queued(OUTPUT)) == CLIENT_S_OWN

    async def test_claimed_topics_count_from_zero(self, installed: dict[TopicPartition, Identity]) -> None:
        """A new epoch begins with sequence 0, and each batch goes on where the last one ended."""
        installed[CHANGELOG] = Identity(9, 3)
        assert [sent(queued(CHANGELOG, records)) for records in (1, 4, 2)] == [(9, 3, 0), (9, 3, 1), (9, 3, 5)]

    async def test_sequence_goes_round(self, installed: dict[TopicPartition, Identity]) -> None:
        """After the largest sequence number comes 0."""
        installed[CHANGELOG] = Identity(9, 3, 2**31 - 1)
        assert [sent(queued(CHANGELOG))[2] for _ in range(2)] == [2**31 - 1, 0]

    async def test_old_batch_keeps_its_epoch(self, installed: dict[TopicPartition, Identity]) -> None:
        """What was queued before a new claim does not become the new owner's: the broker can refuse it."""
        installed[CHANGELOG] = Identity(9, 3)
        old = queued(CHANGELOG)
        installed[CHANGELOG] = Identity(9, 5)
        assert (sent(old), sent(queued(CHANGELOG))) == ((9, 3, 0), (9, 5, 0))


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Claims]:
    """Claims whose epochs count up, over a delivery that the test acknowledges."""
    epochs = iter(range(100))

    async def next_epoch(_: Claims, partition: int) -> tuple[int, int]:
        return 10 + partition, next(epochs)

    monkeypatch.setattr(Claims, "_next_epoch", next_epoch)

    def build(delivery: ManualDelivery, *, owning: bool = True) -> Claims:
        return Claims(settings(), {CHANGELOG.topic: lambda _: KEY}, delivery, lambda: owning)

    return build


def assigned(*partitions: int) -> list[Any]:
    return [SimpleNamespace(topic=topic, partition=n) for topic in (CHANGELOG.topic, "t.queries") for n in partitions]


class TestClaim:
    """Taking over partitions."""

    async def test_claim_waits_for_the_broker(self, claims: Callable[..., Claims]) -> None:
        """An empty record goes to every changelog; before it is acknowledged nothing may be recovered."""
        delivery = ManualDelivery()
        claim = asyncio.create_task(claims(delivery).claim(assigned(0, 2)))
        await settle_down()
        assert [(each.topic, each.partition) for each in delivery.sent] == [(CHANGELOG.topic, 0), (CHANGELOG.topic, 2)]
        assert {(record.key, record.value) for each in delivery.sent for record in each.records} == {(KEY, None)}
        assert not claim.done()
        delivery.acknowledge()
        await claim

    async def test_refused_claim_ends_the_process(self, claims: Callable[..., Claims]) -> None:
        """Somebody claimed later: this worker is the former owner already."""
        delivery = ManualDelivery()
        claim = asyncio.create_task(claims(delivery).claim(assigned(0)))
        await settle_down()
        delivery.fail(ProducerFenced())
        with pytest.raises(WorkerMustStop) as caught:
            await claim
        assert caught.value.code is ExitCode.LEASE_LOST

    @pytest.mark.parametrize(("owning", "renewed"), [(True, 1), (False, 0)])
    async def test_renewal_only_of_what_is_owned(
        self, owning: bool, renewed: int, claims: Callable[..., Claims], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is held is claimed again from time to time; who may have lost it must not fence off its successor."""
        monkeypatch.setattr(fencing, "RENEW_S", 0.01)
        delivery = ManualDelivery()
        held = claims(delivery, owning=owning)
        first = asyncio.create_task(held.claim(assigned(1)))
        await settle_down()
        delivery.acknowledge()
        await first
        renewal = asyncio.create_task(held.run_renewal())
        await asyncio.sleep(0.1)
        renewal.cancel()
        assert len(delivery.sent) == 1 + renewed


async def test_missing_coordinator_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction coordinator that never comes up is told after a minute, with the id, not waited for."""
    monkeypatch.setattr(fencing, "PATIENCE_S", 0.01)

    async def never(_: Claims, name: str) -> tuple[int, int]:
        del name
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Claims, "_ask", never)
    claims = Claims(settings(), {CHANGELOG.topic: lambda _: KEY}, ManualDelivery(), lambda: True)
    with pytest.raises(WorkerMustStop, match="transactional id t-partition-0") as caught:
        await claims.claim(assigned(0))
    assert caught.value.code is ExitCode.SEND_FAILED


@pytest.mark.parametrize(("error", "code"), [(ProducerFenced(), 73), (KafkaTimeoutError(), 72), (OSError(), 72)])
def test_sends_given_up(error: Exception, code: int) -> None:
    """A refused epoch means another owner, anything else a send that failed for good."""
    assert undeliverable(error).code == code
