"""Following a topic as its records come, for as long as somebody reads them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from worker.kafka import connect
from worker.kafka.compacted import Record
from worker.settings import Settings

_POLL_MS = 200


async def follow(settings: Settings, topic: str, since_ms: int | None = None) -> AsyncGenerator[Record, None]:
    """Every committed record written at or after a time (ms since the epoch; None: from now on), without end.

    Raises:
        OperationFailed: no broker, no such topic, or it may not be read.
    """
    async with connect.reader(settings, topic) as consumer:
        partitions = list(consumer.assignment())
        starts = await consumer.end_offsets(partitions)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
            starts |= {tp: place.offset for tp, place in found.items() if place is not None}
        for tp, start in starts.items():
            consumer.seek(tp, start)
        while True:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for raw in records:
                    yield Record(raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, raw.headers)
