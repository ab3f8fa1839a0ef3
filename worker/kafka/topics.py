"""The topics of one deployment: what they must be, creating them, and what differs from that.

Declared here once: public topics, control topics and changelogs, with partitions,
policy and sizes (public contract, section 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError, for_code

from worker.errors import OperationFailed, UsageError
from worker.kafka import connect
from worker.settings import Settings

DEFAULT_PARTITIONS = 4
BROKER_DEFAULT = -1

# A text of 400,000 characters is accepted, and JSON may escape each as two \uXXXX: 4.8 MB.
# The largest size below stays under the 8 MiB of managed brokers.
SOURCE_MAX_BYTES = 5 * 1024 * 1024
# Whatever was accepted can be set aside: the original plus the headers that say why.
DEAD_LETTER_MAX_BYTES = SOURCE_MAX_BYTES + 64 * 1024
# `pending` holds a decision, its context and up to eight parked feedback records with their headers.
CHANGELOG_MAX_BYTES = SOURCE_MAX_BYTES + 1024 * 1024

_DAY_MS = 24 * 60 * 60 * 1000
_SOURCE = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": str(7 * _DAY_MS),
    "max.message.bytes": str(SOURCE_MAX_BYTES),
}
_DECISIONS = {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)}
_CONTROL = {"cleanup.policy": "compact"}
_DEAD_LETTERS = {
    "cleanup.policy": "delete",
    "retention.ms": str(30 * _DAY_MS),
    "max.message.bytes": str(DEAD_LETTER_MAX_BYTES),
}
# Recovery reads the whole log, so it is kept short: small segments, cleaned early and at least every hour.
# A worker that comes back to its local store must still find the deletions it missed (`worker.stream.rocks`).
_CHANGELOG = {
    "cleanup.policy": "compact",
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.3",
    "max.compaction.lag.ms": "3600000",
    "delete.retention.ms": str(_DAY_MS),
    "max.message.bytes": str(CHANGELOG_MAX_BYTES),
}
_DENIED = TopicAuthorizationFailedError.errno
_LEADER_POLLS, _LEADER_POLL_S = 100, 0.1
_EXACT = ("cleanup.policy", "message.timestamp.type")
_AT_LEAST = ("max.message.bytes", "delete.retention.ms")
TABLES = ("pending", "spend", "arms")
REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Topic:
    """One declared topic; `partitioned`: as many partitions as `queries`, else one."""

    name: str
    partitioned: bool
    config: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as the broker has it."""

    partitions: int
    config: Mapping[str, str]


def declared(settings: Settings) -> tuple[Topic, ...]:
    """Every topic that a deployment needs, `queries` first."""
    public = (
        Topic(settings.topic("queries"), True, _SOURCE),
        Topic(settings.topic("feedback"), True, _SOURCE),
        Topic(settings.topic("decisions"), True, _DECISIONS),
        Topic(settings.topic("models"), False, _CONTROL),
        Topic(settings.topic("budgets"), False, _CONTROL),
        Topic(settings.topic("dead-letters"), False, _DEAD_LETTERS),
    )
    return public + tuple(Topic(settings.changelog(table), True, _CHANGELOG) for table in (*TABLES, REPLAYED))


async def create(
    settings: Settings, partitions: int | None = None, replication: int = BROKER_DEFAULT
) -> tuple[list[str], list[str]]:
    """Create what is missing; names of the topics created now and of those that were there.

    Without `partitions` the count of the existing `queries`, else 4.

    Raises:
        UsageError: `partitions` contradicts what exists.
        OperationFailed: no broker, or it refuses.
    """
    topics = declared(settings)
    async with connect.admin(settings) as client:
        found = await _find(client, settings, topics)
        count = _partition_count(topics, found, partitions)
        missing = [topic for topic in topics if topic.name not in found]
        if missing:
            await _create(client, settings, missing, count, replication)
    return [topic.name for topic in missing], [topic.name for topic in topics if topic.name in found]


async def check(settings: Settings) -> list[str]:
    """What differs from what is needed, one line each; empty: all is well.

    Raises:
        OperationFailed: no broker.
    """
    topics = declared(settings)
    async with connect.admin(settings) as client:
        found = await _find(client, settings, topics)
    reference = found.get(topics[0].name)
    lines: list[str] = []
    for topic in topics:
        if topic.name not in found:
            lines.append(f"{topic.name}: missing, run `pilot topics create`")
            continue
        expected = 1 if not topic.partitioned else reference.partitions if reference else None
        lines += _differences(topic, found[topic.name], expected)
    return lines


async def partition_count(settings: Settings) -> int:
    """Partitions of the topic `queries`, and so of everything that is partitioned.

    Raises:
        OperationFailed: no broker, or no such topic.
    """
    topic = settings.topic("queries")
    async with connect.admin(settings) as client:
        (described,) = await client.describe_topics([topic])
    connect.check_found(settings, topic, described["error_code"])
    return len(described["partitions"])


def _differences(topic: Topic, found: Found, partitions: int | None) -> list[str]:
    lines = []
    if partitions is not None and found.partitions != partitions:
        lines.append(f"{topic.name}: {found.partitions} partitions, needs {partitions}")
    for name in _EXACT:
        needed, actual = topic.config.get(name), found.config.get(name, "")
        if needed is not None and actual != needed:
            lines.append(f"{topic.name}: {name} is {actual}, needs {needed}")
    for name in _AT_LEAST:
        least = int(topic.config.get(name, 0))
        if int(found.config.get(name, 0)) < least:
            lines.append(f"{topic.name}: {name} is {found.config.get(name)}, needs at least {least}")
    return lines


def _partition_count(topics: tuple[Topic, ...], found: Mapping[str, Found], asked: int | None) -> int:
    # A topic made with another count than its siblings would break co-partitioning for good.
    existing = {found[topic.name].partitions for topic in topics if topic.partitioned and topic.name in found}
    if not existing:
        return DEFAULT_PARTITIONS if asked is None else asked
    if asked is not None and existing != {asked}:
        shown = " and ".join(str(count) for count in sorted(existing))
        raise UsageError(f"--partitions {asked}: the existing topics have {shown}; all must have the same number")
    return max(existing)


async def _find(client: AIOKafkaAdminClient, settings: Settings, topics: tuple[Topic, ...]) -> dict[str, Found]:
    described: list[Any] = await client.describe_topics([topic.name for topic in topics])
    for item in described:
        if item["error_code"] == _DENIED:
            raise connect.denied(settings, "Describe", item["topic"])
    partitions = {item["topic"]: len(item["partitions"]) for item in described if item["error_code"] == 0}
    if not partitions:
        return {}
    wanted = dict.fromkeys((*_EXACT, *_AT_LEAST))
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, configs=wanted) for name in partitions]
    answers: list[Any] = await client.describe_configs(resources)
    configs = {}
    for code, _message, _kind, name, entries in (told for answer in answers for told in answer.resources):
        if code == _DENIED:
            raise connect.denied(settings, "DescribeConfigs", name)
        configs[name] = {entry[0]: entry[1] for entry in entries}
    return {name: Found(count, configs.get(name, {})) for name, count in partitions.items()}


async def _create(
    client: AIOKafkaAdminClient, settings: Settings, topics: list[Topic], count: int, replication: int
) -> None:
    wanted = []
    for topic in topics:
        new = NewTopic(topic.name, count if topic.partitioned else 1, 1, topic_configs=dict(topic.config))
        new.replication_factor = replication  # -1 is the broker's default (KIP-464), which the constructor refuses
        wanted.append(new)
    answer = await client.create_topics(wanted)
    for name, code, message in answer.topic_errors:
        if code == _DENIED:
            raise connect.denied(settings, "Create", name)
        # Somebody else may have created it in this moment, which is what was wanted.
        if code not in (0, 36):
            raise OperationFailed(f"{name}: the broker refuses to create it: {message or for_code(code).__name__}")
    await _wait_for_leaders(client, [topic.name for topic in topics])


async def _wait_for_leaders(client: AIOKafkaAdminClient, names: list[str]) -> None:
    # A topic exists a moment before its partitions can be written.
    for _ in range(_LEADER_POLLS):
        described: list[Any] = await client.describe_topics(names)
        parts = [part for item in described for part in item["partitions"] or [{"error_code": 1}]]
        if not any(part["error_code"] for part in parts):
            return
        await asyncio.sleep(_LEADER_POLL_S)
    raise OperationFailed("the new topics got no leader in time: see the broker's log, then `pilot topics check`")
