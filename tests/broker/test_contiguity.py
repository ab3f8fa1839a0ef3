"""What is no hole and what is one: aborted transactions, and records that retention took before they were read."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from tests.broker.support import EMBEDDING, Client, Sent, WorkerProcess, unique, until
from tests.chaos.evidence import progress
from worker.kafka import connect, topics
from worker.settings import Settings

USER = "ann"
STALLED_S = 15.0  # a worker that took the gap for a stall would have left by then


class Lane:
    """A deployment of one partition, its client, and one worker at a time."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.settings = Settings(bootstrap_servers=broker, topic_prefix=f"{unique('t')}.", data_dir=folder / "state")
        asyncio.run(topics.create(self.settings, 1))
        self.client = Client(self.settings)
        self.client.model("only", 1.0, 2.0)
        self.worker: WorkerProcess | None = None
        self.began = 0.0
        self._log = folder / "worker.log"

    def start(self) -> WorkerProcess:
        self.worker = WorkerProcess(self.settings, self._log)
        self.worker.ready(for_text=False)
        self.began = time.monotonic()
        return self.worker

    def ask(self, count: int) -> list[tuple[str, Sent]]:
        return [self.client.query(USER) for _ in range(count)]

    def expire(self, before: Sent, more: int = 0) -> None:
        """Delete every record below this one (KIP-107), as retention does; `more`: also so many from it on."""
        place = TopicPartition(before.topic, before.partition)
        asyncio.run(_delete(self.settings, place, before.offset + more))

    def caught_up(self) -> bool:
        committed, ends = asyncio.run(progress(self.settings, 1))
        return committed == ends

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
        self.client.close()


async def _delete(settings: Settings, place: TopicPartition, before: int) -> None:
    async with connect.admin(settings) as admin:
        await admin.delete_records({place: RecordsToDelete(before_offset=before)})


@pytest.fixture
def lane(broker: str, tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(broker, tmp_path)
    yield lane
    lane.close()


@pytest.fixture(scope="module", autouse=True)
def empty(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """Started first because it must be left alone for a while: all its records expired before anybody read them."""
    lane = Lane(broker, tmp_path_factory.mktemp("empty"))
    try:
        lane.expire(lane.ask(4)[-1][1], more=1)
        lane.start()
        yield lane
    finally:
        lane.close()


async def _transactions(settings: Settings) -> list[str]:
    """Queries in transactions, every other one aborted, the last one too; ids of the committed ones."""
    committed = []
    async with connect.producer(settings, transactional_id=f"{settings.application_id}-client") as producer:
        for number in range(6):
            query = {"query_id": f"t-{number}", "user_id": USER, "embedding": EMBEDDING}
            await producer.begin_transaction()
            await producer.send_and_wait(settings.topic("queries"), json.dumps(query).encode(), USER.encode())
            if number % 2:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
                committed.append(query["query_id"])
    return committed


def test_aborted_transactions_are_no_hole(lane: Lane) -> None:
    """Markers and aborted records leave offsets that nobody waits for, at the end of the log too."""
    worker = lane.start()
    committed = asyncio.run(_transactions(lane.settings))

    for query_id in committed:
        lane.client.decisions(query_id)
    until(lane.caught_up, "commits behind the last marker")

    assert lane.client.seen("t-1") == lane.client.seen("t-5") == []
    assert "fetching again" not in worker.said()
    assert worker.metric("pilot_records_lost_total") == 0


def test_records_that_expired_while_nobody_read(lane: Lane) -> None:
    """What retention took between the commit and the restart is told and counted; the rest is decided."""
    lane.start()
    (_, first), *_ = lane.ask(5)
    lane.client.committed(lane.ask(1)[0][1])
    assert lane.worker is not None
    assert lane.worker.stop() == 0
    asked = lane.ask(5)
    lane.expire(asked[3][1])

    worker = lane.start()

    lane.client.decisions(asked[3][0])
    lane.client.decisions(asked[4][0])
    until(lambda: worker.metric("pilot_records_lost_total", topic="queries") == 3, "3 lost records")
    assert first.offset == 0
    assert [lane.client.seen(query_id) for query_id, _ in asked[:3]] == [[], [], []]


def test_everything_expired_while_nobody_read(lane: Lane) -> None:
    """A log that is empty from the commit to its end is no stall: the loss is told, and the worker goes on."""
    lane.start()
    lane.client.committed(lane.ask(1)[0][1])
    assert lane.worker is not None
    assert lane.worker.stop() == 0
    asked = lane.ask(4)
    lane.expire(asked[-1][1], more=1)

    worker = lane.start()

    until(lambda: worker.metric("pilot_records_lost_total", topic="queries") == 4, "4 lost records")
    until(lane.caught_up, "commits at the end")
    assert worker.process.poll() is None
    lane.client.decide(USER)


def test_records_that_expired_under_a_slow_reader(lane: Lane) -> None:
    """A reader overtaken by retention tells how many records it missed and goes on behind them."""
    worker = lane.start()
    lane.client.committed(lane.ask(1)[0][1])
    worker.process.send_signal(signal.SIGSTOP)
    asked = lane.ask(5)
    lane.expire(asked[3][1])
    worker.process.send_signal(signal.SIGCONT)

    lane.client.decisions(asked[4][0])
    until(lane.caught_up, "commits at the end")
    answered = sum(bool(lane.client.seen(query_id)) for query_id, _ in asked)  # one was on its way already
    until(lambda: worker.metric("pilot_records_lost_total", topic="queries") == 5 - answered, "the lost records")
    assert 2 <= answered < 5


def test_records_that_expired_before_the_first_commit(empty: Lane) -> None:
    """A group that never committed begins where the log begins, even where that is its end."""
    assert empty.worker is not None
    until(lambda: time.monotonic() > empty.began + STALLED_S, "the time of a stall")
    assert empty.worker.process.poll() is None
    empty.client.decide(USER)
