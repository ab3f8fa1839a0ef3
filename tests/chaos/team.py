"""A deployment whose queries and payments can be counted at the end, whatever happened to its workers in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.broker.support import Client, WorkerProcess, unique, until
from tests.chaos.evidence import progress
from worker.errors import OperationFailed
from worker.kafka import topics
from worker.settings import Settings

PARTITIONS = 4
SESSION_S = 6.0
PAID_USD = 0.001
PATIENCE_S = 90.0


class Team:
    """Eight users, one model, and workers by name."""

    def __init__(self, servers: str, folder: Path, replication: int = 1) -> None:
        self.settings = Settings(
            bootstrap_servers=servers, topic_prefix=f"{unique('t')}.", data_dir=folder / "state",
            session_timeout_s=SESSION_S,
        )  # fmt: skip
        asyncio.run(self._create(replication))
        self.client = Client(self.settings)
        self.client.model("only", 1.0, 2.0)
        self.users = [unique("user") for _ in range(8)]
        self.asked: list[str] = []
        self.workers: dict[str, WorkerProcess] = {}
        self._folder = folder

    async def _create(self, replication: int) -> None:
        await topics.create(self.settings, PARTITIONS, replication)
        # Any of several brokers may be asked next, and each hears of new topics a moment later.
        for _ in range(10 if replication > 1 else 0):
            await self._heard()

    async def _heard(self) -> None:
        for _ in range(50):
            try:
                await topics.partition_count(self.settings)
            except OperationFailed:
                await asyncio.sleep(0.2)
            else:
                return

    def start(self, name: str, **more: Any) -> WorkerProcess:
        worker = WorkerProcess(self.settings, self._folder / f"{name}.log", worker_id=name, **more)
        self.workers[name] = worker
        worker.ready(for_text=False)
        return worker

    def ask(self, count: int) -> list[str]:
        """Queries of all users in turn, each paid for without waiting for its decision."""
        begun = len(self.asked)
        for number in range(begun, begun + count):
            user = self.users[number % len(self.users)]
            self.asked.append(self.client.query(user)[0])
            self.client.feedback(user, self.asked[-1], cost_usd=PAID_USD)
        return self.asked[begun:]

    def decided(self, asked: list[str]) -> None:
        """Wait until each has its decision."""
        until(lambda: all(self.client.seen(query_id) for query_id in asked), "a decision of each query", PATIENCE_S)

    def check(self) -> None:
        """Every query has one decision, every payment counts once, and nothing is left to read."""
        self.decided(self.asked)
        until(self._caught_up, "commits at the end", PATIENCE_S)
        assert [len({r.value for r in self.client.seen(query_id)}) for query_id in self.asked] == [1] * len(self.asked)
        rows = self.client.budgets()
        for place, user in enumerate(self.users):
            count = len(self.asked[place :: len(self.users)])
            assert rows[user]["queries"] == count
            assert (round(rows[user]["settled_usd"] / PAID_USD, 6), rows[user]["reserved_usd"]) == (count, 0)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        self.client.close()

    def _caught_up(self) -> bool:
        committed, ends = asyncio.run(progress(self.settings, PARTITIONS))
        return committed == ends
