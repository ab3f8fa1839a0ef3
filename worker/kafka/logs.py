"""The logs behind topic partitions: which topic of a name this is, and from where to where its records go.

A topic that is deleted and made anew has the same name, and its offsets begin again.
Only its id tells it apart (KIP-516).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

import structlog
from aiokafka.structs import TopicPartition

from worker.errors import OperationFailed
from worker.kafka import connect, metadata
from worker.settings import Settings

logger = structlog.get_logger(__name__)
_RETRY_S = 1.0


class Log(NamedTuple):
    """One topic partition: the topic's id (empty: the broker has none), its first offset, and the next to come."""

    topic_id: str
    beginning: int
    end: int


async def look(settings: Settings, topics: Mapping[str, str], partitions: Collection[int]) -> dict[int, dict[str, Log]]:
    """The logs of these partitions of several topics (names by alias), by partition and alias.

    A broker that is away may come back: it is asked again for a minute.

    Raises:
        OperationFailed: it did not, or a topic may not be described.
    """
    deadline = time.monotonic() + connect.START_PATIENCE_S
    while True:
        try:
            return await _look(settings, topics, partitions)
        except OperationFailed as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("changelogs not seen yet", error=str(error))
            await asyncio.sleep(_RETRY_S)


async def _look(
    settings: Settings, topics: Mapping[str, str], partitions: Collection[int]
) -> dict[int, dict[str, Log]]:
    aliases = {topic: alias for alias, topic in topics.items()}
    wanted = [TopicPartition(topic, partition) for topic in aliases for partition in partitions]
    async with connect.onlooker(settings) as client:
        known = await metadata.describe(client._client, list(aliases))  # noqa: SLF001 - no public way
        beginnings, ends = await client.beginning_offsets(wanted), await client.end_offsets(wanted)
    found: defaultdict[int, dict[str, Log]] = defaultdict(dict)
    for tp in wanted:
        topic = known.get(tp.topic)
        found[tp.partition][aliases[tp.topic]] = Log(topic.id if topic else "", beginnings[tp], ends[tp])
    return dict(found)
