"""Writing the control topics: a value replaces what its key had, None removes it."""

from __future__ import annotations

from collections.abc import Mapping

from worker.kafka import connect
from worker.settings import Settings


async def publish(settings: Settings, topic: str, values: Mapping[str, bytes | None]) -> None:
    """Write one record a key and wait until all are acknowledged.

    Raises:
        OperationFailed: no broker, no such topic, or a write failed.
    """
    await connect.require_topic(settings, topic)
    async with connect.producer(settings, enable_idempotence=True) as client:
        sent = [await client.send(topic, value, key=key.encode()) for key, value in values.items()]
        for acknowledged in sent:
            await acknowledged
