"""Fencing: a changelog takes no late write of a former owner.

A worker that stands still may have writes in its socket, and they arrive after
another worker has recovered and gone on. The newest record of a key wins
compaction, so the late one would become the state of the next recovery.

Every partition number has a transactional id, used only for its producer epoch
(KIP-98). Whoever is assigned the partition asks for the next epoch and writes one
empty record with it to each changelog before it recovers. From then on the broker
refuses lower epochs there. No transaction is ever begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from aiokafka.producer import message_accumulator
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.structs import TopicPartition

from worker.errors import ExitCode, OperationFailed, WorkerMustStop
from worker.kafka import connect
from worker.settings import Settings
from worker.stream.delivery import Delivery, Outgoing

logger = structlog.get_logger(__name__)

PATIENCE_S = 60.0
RENEW_S = 86_400.0  # below the 7 days after which a broker forgets an unused transactional id, and its epochs with it
_RETRY_S = 1.0
_SEQUENCES = 2**31  # sequence numbers of a producer go round (KIP-98)


@dataclass(slots=True)
class Identity:
    """What a broker knows a writer of one changelog partition by."""

    producer_id: int
    epoch: int
    sequence: int = 0


_identities: dict[TopicPartition, Identity] = {}


class OwnedBatch(MessageBatch):  # type: ignore[misc] # aiokafka is untyped here
    """A record batch that keeps the identity under which it was queued, however late it leaves."""

    def __init__(self, tp: TopicPartition, *rest: Any) -> None:
        super().__init__(tp, *rest)
        self._identity = _identities.get(tp)

    def set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Called once, when the batch leaves for the first time; topics without a claim keep aiokafka's identity."""
        own = self._identity
        if own is not None:
            producer_id, producer_epoch, base_sequence = own.producer_id, own.epoch, own.sequence
            own.sequence = (own.sequence + self.record_count) % _SEQUENCES
        super().set_producer_state(producer_id, producer_epoch, base_sequence)


def install() -> None:
    """Make aiokafka's producers build batches that know their owner."""
    message_accumulator.MessageBatch = OwnedBatch


class Claims:
    """Takes over the changelogs of partitions; `keys` gives the key of the empty record by topic and partition."""

    def __init__(
        self,
        settings: Settings,
        keys: Mapping[str, Callable[[int], bytes]],
        delivery: Delivery,
        owning: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._owning = owning
        self._keys = keys
        self._delivery = delivery
        self._held: frozenset[int] = frozenset()

    async def claim(self, assigned: Iterable[Any]) -> None:
        """Fence off every earlier owner of the assigned changelogs; returns when the broker has it.

        Raises:
            WorkerMustStop: exit 72, it did not succeed for a minute.
        """
        self._held = frozenset(tp.partition for tp in assigned if tp.topic in self._keys)
        await asyncio.gather(*(self._claim(partition) for partition in sorted(self._held)))

    async def run_renewal(self) -> None:
        """Claim what is held again from time to time, so that no broker forgets its epoch."""
        while True:
            await asyncio.sleep(RENEW_S)
            if self._owning():  # else the next assignment claims
                await asyncio.gather(*(self._claim(partition) for partition in sorted(self._held)))

    async def _claim(self, partition: int) -> None:
        producer_id, epoch = await self._next_epoch(partition)
        sent = []
        for topic, key in self._keys.items():
            _identities[TopicPartition(topic, partition)] = Identity(producer_id, epoch)
            sent += await self._delivery.send(topic, partition, [Outgoing(key(partition), None)])
        try:
            for part in sent:
                await part.acknowledged
        except KafkaError as error:
            raise WorkerMustStop(ExitCode.SEND_FAILED, f"partition {partition} cannot be claimed: {error!r}") from error

    async def _next_epoch(self, partition: int) -> tuple[int, int]:
        name = self._settings.owner_id(partition)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                async with connect.producer(self._settings, transactional_id=name) as client:
                    return client._txn_manager.producer_id, client._txn_manager.producer_epoch
            except OperationFailed as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise WorkerMustStop(ExitCode.SEND_FAILED, f"no producer epoch for {name}: {error}") from error
                logger.warning("no producer epoch yet", transactional_id=name, error=str(error))
                await asyncio.sleep(_RETRY_S)
