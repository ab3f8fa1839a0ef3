"""Logs read to their end, and the control topics as a worker follows them, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from worker.errors import OperationFailed
from worker.kafka import compacted, connect, local, topics
from worker.kafka.compacted import Follower, Record
from worker.kafka.control import Budgets, Catalog, followers
from worker.kafka.publish import publish
from worker.settings import Settings


def model(name: str, price: float = 1.0) -> bytes:
    return json.dumps({"model": name, "input_usd_per_mtok": price, "output_usd_per_mtok": price}).encode()


@asynccontextmanager
async def running(*following: Follower) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(follower.run()) for follower in following]
    try:
        async with asyncio.timeout(30):
            for follower in following:
                await follower.caught_up.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


async def test_control_topics_reach_catalog_and_budgets(deployment: Settings) -> None:
    """What was written before the start is there when caught up, what is written later follows."""
    await publish(deployment, deployment.topic("models"), {"b": model("b"), "a": model("a"), "gone": model("gone")})
    await publish(deployment, deployment.topic("models"), {"gone": None})
    await publish(deployment, deployment.topic("budgets"), {"*": b'{"limit_usd": 0.5}', "ann": b'{"limit_usd": 2}'})
    catalog, budgets = Catalog(), Budgets()

    async with running(*followers(deployment, catalog, budgets)):
        assert [arm.model for arm in catalog.arms] == ["a", "b"]
        assert (budgets.limit_nanos("ann"), budgets.limit_nanos("bob")) == (2_000_000_000, 500_000_000)

        await publish(deployment, deployment.topic("models"), {"a": model("a", price=7.0)})
        await publish(deployment, deployment.topic("budgets"), {"ann": None})

        await until(lambda: catalog.arms[0].input_usd_per_mtok == 7.0 and budgets.limit_nanos("ann") == 500_000_000)


async def test_bad_control_records_are_skipped(deployment: Settings) -> None:
    """A bad record is reported with topic, offset and reason, and the last good value stays."""
    bad: list[tuple[str, int, str]] = []
    catalog, budgets = Catalog(on_bad=lambda *what: bad.append(what)), Budgets(on_bad=lambda *what: bad.append(what))
    await publish(deployment, deployment.topic("models"), {"a": model("a")})
    await publish(deployment, deployment.topic("models"), {"a": b"{not json", "z": model("other")})
    await publish(deployment, deployment.topic("budgets"), {"ann": b'{"limit_usd": 1}'})
    await publish(deployment, deployment.topic("budgets"), {"ann": b'{"limit_usd": -1}'})

    async with running(*followers(deployment, catalog, budgets)):
        assert [arm.model for arm in catalog.arms] == ["a"]
        assert budgets.limit_nanos("ann") == 1_000_000_000
    assert [(topic, offset, reason.split(":")[0]) for topic, offset, reason in sorted(bad)] == [
        ("budgets", 1, "invalid_event"),
        ("models", 1, "invalid_json"),
        ("models", 2, "invalid_key"),
    ]


async def test_end_is_reached_behind_aborted_transactions(deployment: Settings) -> None:
    """Aborted records are not delivered, and a log that ends in them and in markers still ends."""
    topic = deployment.changelog("arms")
    async with connect.producer(deployment, transactional_id=deployment.application_id) as producer:
        async with producer.transaction():
            await producer.send(topic, b"committed", key=b"key", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", key=b"key", partition=0)
        await producer.send_and_wait(topic, b"aborted", key=b"other", partition=1)
        await producer.abort_transaction()

    found = await compacted.latest(deployment, topic)

    assert {key: record.value for key, record in found.items()} == {b"key": b"committed"}


async def test_every_partition_is_read(deployment: Settings) -> None:
    """Reading to the end delivers each record of every partition once, in order, with its headers."""
    topic = deployment.changelog("spend")
    async with connect.producer(deployment) as producer:
        for number in range(40):
            await producer.send_and_wait(
                topic, str(number).encode(), key=b"k", partition=number % 4, headers=[("n", b"h")]
            )
    seen: list[Record] = []

    await compacted.read_to_end(deployment, topic, seen.append)

    assert sorted(int(record.value or b"") for record in seen) == list(range(40))
    for partition in range(4):
        assert [record.offset for record in seen if record.partition == partition] == list(range(10))
    assert {record.headers for record in seen} == {(("n", b"h"),)}


async def test_missing_topic_is_named(settings: Settings) -> None:
    """Reading or writing a topic that does not exist says so at once, and what to do."""
    with pytest.raises(OperationFailed, match=r"models: no such topic, run `pilot topics create`"):
        await compacted.latest(settings, settings.topic("models"))
    with pytest.raises(OperationFailed, match="no such topic"):
        await publish(settings, settings.topic("models"), {"a": None})


async def test_follower_survives_an_outage(tmp_path: Path) -> None:
    """A broker killed and started again is followed on, nothing delivered twice or left out."""
    data_dir = tmp_path / "kafka"
    try:
        address = await asyncio.to_thread(local.start, 0, data_dir)
        settings = Settings(bootstrap_servers=address)
        await topics.create(settings)
        seen: list[bytes | None] = []
        follower = Follower(settings, settings.topic("models"), lambda record: seen.append(record.value))
        await publish(settings, settings.topic("models"), {"a": b"1"})
        async with running(follower):
            before = local.status(data_dir)
            assert before is not None
            os.kill(before.pid, signal.SIGKILL)
            await asyncio.to_thread(local.start, before.port, data_dir)
            await publish(settings, settings.topic("models"), {"a": b"2"})
            await until(lambda: len(seen) >= 2)
        assert seen == [b"1", b"2"]
    finally:
        await asyncio.to_thread(local.stop, data_dir)


async def test_lag_is_what_is_not_delivered_yet(deployment: Settings) -> None:
    """It falls with every record, and is 0 before the start, at the end, and after what is written later."""
    topic, lags = deployment.topic("models"), list[int]()
    follower = Follower(deployment, topic, lambda _: lags.append(follower.lag))
    assert follower.lag == 0
    await publish(deployment, topic, {name: model(name) for name in "abc"})
    async with running(follower):
        assert (lags, follower.lag) == ([3, 2, 1], 0)
        await publish(deployment, topic, {"d": model("d")})
        await until(lambda: len(lags) == 4)
        assert (lags[-1], follower.lag) == (1, 0)


async def test_follower_waits_for_its_topic(settings: Settings) -> None:
    """A follower started before the topics exist catches up once they do."""
    follower = Follower(settings, settings.topic("models"), lambda _: None)
    task = asyncio.create_task(follower.run())
    await topics.create(settings)
    async with asyncio.timeout(30):
        await follower.caught_up.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
