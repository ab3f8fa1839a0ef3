"""Each way in which a worker can no longer go on, on a real broker: it leaves in time, with its code and its reason."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import orjson
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.broker.support import EMBEDDING, WorkerProcess, unique, until
from tests.chaos.broken_worker import BROKEN_AT, LOST
from tests.chaos.evidence import progress
from tests.chaos.supervisor import LocalBroker
from worker import codecs
from worker.core.fence import Fence
from worker.core.ledger import Spend
from worker.kafka import connect, topics
from worker.settings import Settings

QUERIES = 100
USER = "ann"
SESSION_S = 4.0
LEFT_S = 90.0  # all of them start at once, on whatever machine this is; each needs some 15 s of it
HEALTHY = ("worker.cli", "worker")


@dataclass(frozen=True, slots=True)
class End:
    """How a worker with this fault ends: its code, words of its last line, and another code if two guards race."""

    code: int
    reason: str
    or_code: int | None = None


ENDS = {
    "hole": End(70, "queries/0 after offset 19 (hole) and do not come back"),
    "deaf": End(71, "worker must stop", or_code=70),
    "no_fetch": End(71, "stands at 20 of 100"),
    "unreadable": End(71, "records cannot be read: ValueError('no record batch')"),
    "no_commit": End(71, "stands at 0"),
    "no_delivery": End(71, "stands at 0 of 100"),
    "crawl": End(71, "commits crawl"),
    "refused": End(72, "a send failed for good"),
    "pause": End(73, "the process stood still"),
    "torn": End(74, "are split"),
    "tripped": End(74, "but no decision is known of it"),
}


async def _prepare(settings: Settings, partitions: int = 1) -> None:
    """Topics, one model, and more queries than any fault lets through."""
    await topics.create(settings, partitions)
    model = {"model": "only", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    async with connect.producer(settings) as producer:
        await producer.send_and_wait(settings.topic("models"), json.dumps(model).encode(), b"only")
        for number in range(QUERIES):
            query = {"query_id": f"q-{number}", "user_id": USER, "embedding": EMBEDDING}
            await producer.send(settings.topic("queries"), json.dumps(query).encode(), USER.encode())
        await producer.flush()


async def _refuse_decisions(settings: Settings) -> None:
    """The broker takes no decision any more: somebody changed the topic."""
    async with connect.admin(settings) as admin:
        name = settings.topic("decisions")
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "100"})])


async def _contradict(settings: Settings) -> None:
    """The ledger says that it contains queries of which `pending` knows nothing."""
    today = int(time.time()) // 86_400 * 86_400
    value = codecs.pack_spend(Spend(queries=1, fence=Fence(query=10**6)))
    async with connect.producer(settings) as producer:
        for start in (today, today + 86_400):  # midnight may come before the worker
            key = orjson.dumps((USER, (float(start), start + 86_400 - 0.1)))
            await producer.send_and_wait(settings.changelog("spend"), value, key)


@pytest.fixture(scope="module")
def workers(killable: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WorkerProcess]]:
    """One worker a fault, each with a deployment of its own, all at once: they mostly wait."""
    folder = tmp_path_factory.mktemp("exits")
    deployments = {
        name: Settings(
            bootstrap_servers=killable.address, topic_prefix=f"{unique('t')}.", data_dir=folder / name,
            session_timeout_s=SESSION_S if name == "pause" else 10.0,
        )
        for name in (*ENDS, "lossy")
    }  # fmt: skip

    async def prepare() -> None:
        for name, each in deployments.items():
            await _prepare(each, 4 if name == "torn" else 1)
        await _refuse_decisions(deployments["refused"])
        await _contradict(deployments["tripped"])

    asyncio.run(prepare())
    with ExitStack() as stack:

        def start(name: str, *program: str, worker: str) -> WorkerProcess:
            log = folder / f"{name}-{worker}.log"
            process = WorkerProcess(deployments[name], log, program, worker_id=worker)
            stack.callback(process.kill)
            return process

        found = {}
        for name in deployments:
            program = HEALTHY if name in ("refused", "torn", "tripped") else ("tests.chaos.broken_worker", name)
            found[name] = start(name, *program, worker="one")
        start("torn", "tests.chaos.broken_worker", "half", worker="other")
        yield found


@pytest.mark.parametrize("fault", ENDS)
def test_worker_leaves(fault: str, workers: dict[str, WorkerProcess]) -> None:
    """Whatever stops the work ends the process with the contract's code, and the log says what it was."""
    worker, end = workers[fault], ENDS[fault]
    assert worker.wait(LEFT_S) in (end.code, end.or_code), worker.said()
    assert end.reason in worker.said()


def test_lost_records_come_back(workers: dict[str, WorkerProcess]) -> None:
    """Records that got lost on their way to the agent are fetched again: everything is decided, nobody has to leave."""
    worker = workers["lossy"]
    settled = until(lambda: _settled(worker.settings), "commit of everything", LEFT_S)
    assert settled == QUERIES
    assert "fetching again" in worker.said()
    assert worker.process.poll() is None
    assert worker.metric("pilot_queries_total", outcome="routed") == QUERIES
    assert BROKEN_AT + LOST < QUERIES


def _settled(settings: Settings) -> int:
    committed, ends = asyncio.run(progress(settings, 1))
    return committed[settings.topic("queries"), 0] if committed == ends else 0
