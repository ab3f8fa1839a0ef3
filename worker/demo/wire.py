"""The caller's connection to the broker: plain Kafka, bytes in and out, no group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from worker.kafka import connect
from worker.kafka.partitioning import partition_of
from worker.settings import Settings


class Wire:
    """Sends to and reads from the topics of one deployment. An async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._connection, self._prefix = connect.client_arguments(settings), settings.topic_prefix
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(**self._connection, acks="all")
        await self._producer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._producer.stop()

    async def queue(self, topic: str, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
        """Hand a record to the producer in the order of calls; the future brings its metadata."""
        future: asyncio.Future[Any] = await self._producer.send(self._prefix + topic, value=value, key=key)
        return future

    async def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Send a record and wait until the broker has it."""
        await (await self.queue(topic, key, value))

    async def misplace(self, topic: str, key: bytes, value: bytes) -> bool:
        """Send a record to a partition that is not its key's; False when there is only one."""
        partitions = len(await self._producer.partitions_for(self._prefix + topic))
        home = partition_of(key, partitions)
        if partitions > 1:
            elsewhere = (home + 1) % partitions
            await self._producer.send_and_wait(self._prefix + topic, value=value, key=key, partition=elsewhere)
        return partitions > 1

    async def users_by_partition(self, name: str) -> list[str]:
        """One user id for each partition of `queries`, whose key lies there."""
        partitions = len(await self._producer.partitions_for(self._prefix + "queries"))
        found: dict[int, str] = {}
        for number in count():
            user = f"{name}-{number}"
            found.setdefault(partition_of(user.encode(), partitions), user)
            if len(found) == partitions:
                break
        return list(found.values())

    async def read(self, topic: str) -> AsyncIterator[Any]:
        """Every record of every partition of a topic, from its beginning, for ever."""
        async with AIOKafkaConsumer(**self._connection, auto_offset_reset="earliest") as consumer:
            name = self._prefix + topic
            partitions = await self._producer.partitions_for(name)
            consumer.assign([TopicPartition(name, partition) for partition in partitions])
            async for record in consumer:
                yield record
