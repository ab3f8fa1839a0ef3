"""What a broker tells of topics beyond what aiokafka asks: ids (KIP-516) and what this process may do (KIP-430)."""

from __future__ import annotations

from typing import NamedTuple

from aiokafka.client import AIOKafkaClient
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


class Topic(NamedTuple):
    """Kafka's error code, the topic's id (empty: the broker has none), and the bits of the permitted operations."""

    error: int
    id: str
    operations: int


async def describe(client: AIOKafkaClient, names: list[str]) -> dict[str, Topic]:
    """These topics by name; none from a broker before Kafka 2.8."""
    try:
        answer = await client.send(client.get_random_node(), _Metadata(names))
    except NotImplementedError:  # what aiokafka raises for a version that the broker lacks
        return {}
    return {
        name: Topic(error, f"{high % 2**64:016x}{low % 2**64:016x}" if high or low else "", operations)
        for error, name, high, low, _, _, operations, _ in answer.topics
    }


class _MetadataResponse(Response):  # type: ignore[misc] # aiokafka is untyped here
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


class _MetadataStruct(RequestStruct):  # type: ignore[misc] # aiokafka is untyped here
    """Version 10 is the first that tells topic ids; aiokafka's own requests end before authorized operations (8)."""

    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 3, 10
    RESPONSE_TYPE = _MetadataResponse
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


class _Metadata(Request[_MetadataStruct]):  # type: ignore[misc] # aiokafka is untyped here
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        return request_struct_class([(0, 0, topic, {}) for topic in self._topics], False, False, True, {})
