"""How this package reaches the brokers: clients that close themselves and say clearly when nobody answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError

from worker.errors import OperationFailed
from worker.settings import Settings

START_PATIENCE_S = 60.0
_RETRY_S = 1.0


@asynccontextmanager
async def _started(client: Any, stop: str, servers: str) -> AsyncIterator[Any]:
    try:
        try:
            await client.start()
        except (KafkaConnectionError, RequestTimedOutError) as error:
            raise OperationFailed(f"no Kafka broker answers at {servers} (PILOT_BOOTSTRAP_SERVERS)") from error
        yield client
    except KafkaError as error:
        raise OperationFailed(f"Kafka at {servers}: {error}") from error
    finally:
        await getattr(client, stop)()


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client; Kafka's errors leave it as `OperationFailed`."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    async with _started(client, "close", settings.bootstrap_servers) as started:
        yield started


@asynccontextmanager
async def producer(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer that waits for all in-sync replicas; options as of AIOKafkaProducer."""
    client = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all", **options)
    async with _started(client, "stop", settings.bootstrap_servers) as started:
        yield started


@asynccontextmanager
async def reader(settings: Settings, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group at the beginning of every partition of one topic, committed records only.

    Raises:
        OperationFailed: no broker, or no such topic.
    """
    await require_topic(settings, topic)
    client = AIOKafkaConsumer(
        topic,
        bootstrap_servers=settings.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    async with _started(client, "stop", settings.bootstrap_servers) as started:
        yield started


async def require_topic(settings: Settings, topic: str) -> None:
    """Fail at once when a topic is missing.

    Raises:
        OperationFailed: no broker, or no such topic.
    """
    # A consumer would look for a missing topic for 40 s and log a line each time.
    async with admin(settings) as client:
        (described,) = await client.describe_topics([topic])
    if described["error_code"]:
        raise OperationFailed(f"{topic}: no such topic, run `pilot topics create`")


async def wait_for_broker(settings: Settings, patience_s: float = START_PATIENCE_S) -> None:
    """Return as soon as a broker answers.

    Raises:
        OperationFailed: none answered in time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            async with admin(settings):
                return
        except OperationFailed:
            if time.monotonic() + _RETRY_S > deadline:
                raise
            await asyncio.sleep(_RETRY_S)
