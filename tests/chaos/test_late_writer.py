"""An owner that was stopped while it wrote, and whose writes arrive after somebody else has taken over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.broker.support import Client, WorkerProcess, unique, until
from tests.chaos.cluster import Cluster
from tests.chaos.proxy import Proxy
from worker.kafka import topics
from worker.settings import Settings

SESSION_S = 4.0
LEFT_S = 20.0
PAID_USD = 0.25


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a third worker says of a query that two owners have written, and how the first one ended."""

    same_decision: bool
    settled_usd: float
    exit_code: int


class Story:
    """One deployment: the first owner behind the proxy, its successors beside it."""

    def __init__(self, cluster: Cluster, proxy: Proxy, folder: Path, *program: str) -> None:
        folder.mkdir()
        self.proxy, self.folder, self.program = proxy, folder, program
        self.settings = Settings(
            bootstrap_servers=cluster.address, topic_prefix=f"{unique('t')}.", data_dir=folder / "state",
            session_timeout_s=SESSION_S,
        )  # fmt: skip
        asyncio.run(topics.create(self.settings, 1))
        self.client = Client(self.settings)
        self.workers: list[WorkerProcess] = []

    def worker(self, name: str, **more: object) -> WorkerProcess:
        log = self.folder / f"{name}.log"
        self.workers.append(WorkerProcess(self.settings, log, self.program, worker_id=name, **more))
        self.workers[-1].ready(for_text=False)
        return self.workers[-1]

    def begin(self) -> None:
        """The first owner has written some state."""
        self.client.model("only", 1.0, 2.0)
        self.first = self.worker("first", bootstrap_servers=self.proxy.address)
        self.user = self.client.limit(unique("user"), 1.0)
        self.client.decide(self.user)

    def take_over(self) -> None:
        """A second owner decides the query and settles its feedback."""
        self.second = self.worker("second")
        self.decision = self.client.decisions(self.query_id)[0].value
        self.client.settle(self.user, self.query_id, cost_usd=PAID_USD)

    def end(self) -> Aftermath:
        """The second owner dies, the first one wakes up, a third one recovers."""
        self.second.kill()
        self.first.process.send_signal(signal.SIGCONT)
        code = self.first.wait(LEFT_S)
        self.worker("third")
        self.client.query(self.user, self.query_id)
        again = self.client.decisions(self.query_id, 2)[-1].value
        self.client.settle(self.user, self.query_id, cost_usd=PAID_USD)  # a duplicate
        account = self.client.account(self.user)
        assert account is not None
        return Aftermath(again == self.decision, account["settled_usd"], code)

    def close(self) -> None:
        for worker in self.workers:
            worker.process.send_signal(signal.SIGCONT)
            worker.kill()
        self.client.close()


@pytest.fixture(scope="module")
def aftermath(
    proxied: tuple[Cluster, Proxy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Aftermath]]:
    """The same story with workers as they are, and with workers whose late writes nobody refuses."""
    cluster, proxy = proxied
    folder = tmp_path_factory.mktemp("late")
    stories = {
        "fenced": Story(cluster, proxy, folder / "fenced", "worker.cli", "worker"),
        "unfenced": Story(cluster, proxy, folder / "unfenced", "tests.chaos.broken_worker", "unfenced"),
    }
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Story.begin, stories.values()))
            proxy.hold()
            for story in stories.values():
                story.query_id, _ = story.client.query(story.user)
            until(lambda: proxy.holding == len(stories), "a write of each first owner")
            for story in stories.values():
                story.first.process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            list(pool.map(Story.take_over, stories.values()))
            assert time.monotonic() - stopped > SESSION_S * 0.8
            proxy.release()
            yield dict(zip(stories, pool.map(Story.end, stories.values()), strict=True))
    finally:
        for story in stories.values():
            story.close()


def test_late_write_is_refused(aftermath: dict[str, Aftermath]) -> None:
    """The next recovery has the successor's state: the same decision again, the money once."""
    assert aftermath["fenced"].same_decision
    assert aftermath["fenced"].settled_usd == PAID_USD


def test_late_writer_leaves(aftermath: dict[str, Aftermath]) -> None:
    """Who finds that its write came too late ends with 73."""
    assert aftermath["fenced"].exit_code == 73


def test_without_the_fence_the_late_write_wins(aftermath: dict[str, Aftermath]) -> None:
    """What the fence is for: unfenced, the late record is the newest, so another decision is given and money counts twice."""
    assert not aftermath["unfenced"].same_decision
    assert aftermath["unfenced"].settled_usd == 2 * PAID_USD
