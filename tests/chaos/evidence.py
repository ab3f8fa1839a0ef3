"""What a run left on the broker: both source topics, what the workers wrote, and what the group committed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from aiokafka import AIOKafkaConsumer, TopicPartition

from worker.kafka import connect
from worker.kafka.compacted import Record, read_to_end
from worker.settings import Settings

SOURCES = ("queries", "feedback")
# Headers that the client puts on its records: the code a bad one must come back with, and a number for every ask.
EXPECTED_CODE, ASK = "chaos.expected", "chaos.ask"


@dataclass(slots=True)
class Evidence:
    """Every record of a run by topic, in the order of the log; `committed` and `ends` by (topic, partition)."""

    settings: Settings
    partitions: int
    queries: list[Record] = field(default_factory=list)
    feedback: list[Record] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    pending: list[Record] = field(default_factory=list)
    spend: list[Record] = field(default_factory=list)
    arms: list[Record] = field(default_factory=list)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    def copy(self) -> Evidence:
        """Logs that can be tampered with one by one."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return Evidence(**{name: v.copy() if isinstance(v, list | dict) else v for name, v in values.items()})


async def collect(settings: Settings, partitions: int) -> Evidence:
    """Read everything to its end."""
    found = Evidence(settings, partitions)
    topics = {
        settings.topic("queries"): found.queries,
        settings.topic("feedback"): found.feedback,
        settings.topic("decisions"): found.decisions,
        settings.topic("dead-letters"): found.letters,
        settings.changelog("pending"): found.pending,
        settings.changelog("spend"): found.spend,
        settings.changelog("arms"): found.arms,
    }
    for topic, log in topics.items():
        await read_to_end(settings, topic, log.append)
    found.committed, found.ends = await progress(settings, partitions)
    return found


async def progress(
    settings: Settings, partitions: int
) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
    """Committed and end offsets of both source topics."""
    places = [TopicPartition(settings.topic(topic), number) for topic in SOURCES for number in range(partitions)]
    async with connect.admin(settings) as admin:
        offsets = await admin.list_consumer_group_offsets(settings.application_id)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers)
    try:
        await consumer.start()
        ends = await consumer.end_offsets(places)
    finally:
        await consumer.stop()
    committed = {tuple(tp): max(0, offsets[tp].offset) if tp in offsets else 0 for tp in places}
    return committed, {tuple(tp): end for tp, end in ends.items()}
