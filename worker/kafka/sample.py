"""The newest records of the source topics, as evidence of what its producers do and what the broker's clock says."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from worker.kafka import connect
from worker.kafka.partitioning import partition_of
from worker.kafka.tail import follow
from worker.settings import Settings

PER_PARTITION = 50
WATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Of so many records examined, those not on the partition of their key; and the newest broker time in ms."""

    examined: int
    misplaced: int
    newest_ms: int | None


async def placement(settings: Settings, topic: str) -> Placement:
    """Examine the last records of every partition.

    Raises:
        OperationFailed: no broker, no such topic, or it may not be read.
    """
    examined = misplaced = 0
    newest: int | None = None
    async with connect.reader(settings, topic) as consumer:
        partitions = list(consumer.assignment())
        beginnings = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        for tp in partitions:
            consumer.seek(tp, max(beginnings[tp], ends[tp] - PER_PARTITION))
        for tp in partitions:
            while await consumer.position(tp) < ends[tp]:
                for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
                    examined += 1
                    misplaced += record.key is None or partition_of(record.key, len(partitions)) != tp.partition
                    newest = max(newest or 0, record.timestamp)
    return Placement(examined, misplaced, newest)


async def clock_ahead_s(settings: Settings, topic: str) -> float | None:
    """How far this machine's clock is ahead of the broker's, from records that arrive while watching; None: none did.

    A record's way here takes time too, so the smallest difference counts.
    """
    least: float | None = None

    async def watch() -> None:
        nonlocal least
        async for record in follow(settings, topic):
            ahead = time.time() - record.timestamp / 1000
            least = ahead if least is None else min(least, ahead)

    with suppress(TimeoutError):
        await asyncio.wait_for(watch(), WATCH_S)
    return least
