"""The topics of a deployment on a real broker."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka.admin import NewTopic

from worker.errors import OperationFailed, UsageError
from worker.kafka import connect, topics
from worker.settings import Settings

PARTITIONED = ("queries", "feedback", "decisions")
SINGLE = ("models", "budgets", "dead-letters")


async def make(settings: Settings, *new: NewTopic) -> None:
    """Create topics by hand, and wait until the broker's own metadata know them."""
    async with connect.admin(settings) as client:
        await client.create_topics(list(new))
        while True:
            described = await client.describe_topics([topic.name for topic in new])
            if not any(item["error_code"] for item in described):
                return
            await asyncio.sleep(0.05)


async def test_create_makes_everything_once(settings: Settings) -> None:
    """Creating makes every topic with its partitions; repeating it changes nothing."""
    created, existing = await topics.create(settings, partitions=3)
    assert len(created) == 10
    assert existing == []

    again = await topics.create(settings)

    assert again == ([], created)
    async with connect.admin(settings) as client:
        described = {item["topic"]: len(item["partitions"]) for item in await client.describe_topics(created)}
    assert {described[settings.topic(name)] for name in PARTITIONED} == {3}
    assert {described[settings.topic(name)] for name in SINGLE} == {1}
    assert {described[settings.changelog(name)] for name in ("pending", "spend", "arms")} == {3}
    assert await topics.check(settings) == []


async def test_prefixes_do_not_meet(deployment: Settings) -> None:
    """Another prefix on the same broker has none of these topics."""
    other = deployment.model_copy(update={"topic_prefix": f"other-{deployment.topic_prefix}"})
    assert all("missing" in line for line in await topics.check(other))


async def test_missing_topics_take_the_existing_count(settings: Settings) -> None:
    """A topic created later gets as many partitions as its siblings, and another wish is refused."""
    await make(settings, NewTopic(settings.topic("queries"), 2, 1))
    with pytest.raises(UsageError, match="--partitions 4: the existing topics have 2"):
        await topics.create(settings, partitions=4)

    await topics.create(settings)

    async with connect.admin(settings) as client:
        (described,) = await client.describe_topics([settings.topic("feedback")])
    assert len(described["partitions"]) == 2


async def test_check_names_every_difference(settings: Settings) -> None:
    """Wrong partitions, policy, timestamps and sizes are each said with what is needed."""
    deleting = {"cleanup.policy": "delete"}
    await make(
        settings,
        NewTopic(settings.topic("queries"), 4, 1, topic_configs={"max.message.bytes": "1000000"}),
        NewTopic(settings.topic("feedback"), 2, 1, topic_configs={"message.timestamp.type": "LogAppendTime"}),
        NewTopic(settings.topic("models"), 3, 1, topic_configs=deleting),
    )
    await topics.create(settings)

    differences = await topics.check(settings)

    queries, feedback, models = (settings.topic(name) for name in ("queries", "feedback", "models"))
    assert differences == [
        f"{queries}: message.timestamp.type is CreateTime, needs LogAppendTime",
        f"{queries}: max.message.bytes is 1000000, needs at least 5242880",
        f"{feedback}: 2 partitions, needs 4",
        f"{models}: 3 partitions, needs 1",
        f"{models}: cleanup.policy is delete, needs compact",
    ]


async def test_broker_stamps_the_sources(deployment: Settings) -> None:
    """The time of a query and of a feedback is the broker's, whatever the client says."""
    before = time.time() * 1000
    async with connect.producer(deployment) as producer:
        for name in ("queries", "feedback"):
            sent = await producer.send_and_wait(deployment.topic(name), b"{}", timestamp_ms=1)
            assert sent.timestamp >= before - 1000
            assert sent.timestamp_type == 1


async def test_whatever_was_accepted_can_be_set_aside(deployment: Settings) -> None:
    """The largest text in its longest JSON form is accepted, and with the error headers fits among the dead letters."""
    largest = b'{"text": "' + b"\\ud83d\\ude00" * 400_000 + b'"}'
    headers = [("pilot.error.message", b"x" * 60_000)]
    async with connect.producer(deployment, max_request_size=2 * len(largest)) as producer:
        await producer.send_and_wait(deployment.topic("queries"), largest)
        await producer.send_and_wait(deployment.topic("dead-letters"), largest, headers=headers)
        await producer.send_and_wait(deployment.changelog("pending"), largest, key=b"key", headers=headers)


async def test_missing_broker_is_one_clear_error(settings: Settings) -> None:
    """Without a broker the error names the address and the setting."""
    nobody = settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(OperationFailed, match=r"no Kafka broker answers at 127.0.0.1:1 \(PILOT_BOOTSTRAP_SERVERS\)"):
        await topics.check(nobody)
    with pytest.raises(OperationFailed, match="no Kafka broker answers"):
        await connect.wait_for_broker(nobody, patience_s=0)
    await connect.wait_for_broker(settings)
