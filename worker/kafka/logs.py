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
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.structs import TopicPartition

from worker.errors import OperationFailed
from worker.kafka import connect
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
        ids = await _topic_ids(client, list(aliases))
        beginnings, ends = await client.beginning_offsets(wanted), await client.end_offsets(wanted)
    found: defaultdict[int, dict[str, Log]] = defaultdict(dict)
    for tp in wanted:
        found[tp.partition][aliases[tp.topic]] = Log(ids.get(tp.topic, ""), beginnings[tp], ends[tp])
    return dict(found)


async def _topic_ids(client: AIOKafkaConsumer, topics: list[str]) -> dict[str, str]:
    network = client._client  # noqa: SLF001 - aiokafka has no public way
    try:
        answer = await network.send(network.get_random_node(), _Topics(topics))
    except NotImplementedError:  # what aiokafka raises for a version that the broker lacks
        return {}
    return {topic: f"{high % 2**64:016x}{low % 2**64:016x}" for _, topic, high, low, *_ in answer.topics if high or low}


class _TopicsResponse(Response):  # type: ignore[misc] # aiokafka is untyped here
    API_KEY, API_VERSION = 3, 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("id_high", Int64),
                ("id_low", Int64),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _TopicsStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped here
    """Metadata, version 10: the first that tells topic ids, which aiokafka's own do not reach."""

    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 3, 10
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("id_high", Int64), ("id_low", Int64), ("topic", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Topics(Request[_TopicsStruct]):  # type: ignore[misc] # aiokafka is untyped here
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_TopicsStruct]) -> _TopicsStruct:
        return request_struct_class([(0, 0, topic, {}) for topic in self._topics], False, False, False, {})
