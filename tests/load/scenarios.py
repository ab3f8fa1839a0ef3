"""What is done to a running worker, and what must hold afterwards: everything answered, everybody else served.

Each scenario sends its records with a bystander's queries in between, waits until all is
committed, and returns what it cost. The worker must be the same process, healthy, throughout.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from tests.broker.support import Deployment, Sent, unique, until
from tests.load import poison
from tests.load.poison import MIB, Sendable

PARTITIONS = 4
_CHUNK = 500
_BYSTANDER_EVERY = 100
_PATIENCE_S = 900.0
_LAST_WORDS = 2_000  # characters of a log


@dataclass(frozen=True, slots=True)
class Figures:
    """Records sent, seconds until all were committed, and the worker's resident memory in MiB."""

    name: str
    records: int
    queries: int
    seconds: float
    rss_before: float
    rss_after: float

    @property
    def grown(self) -> float:
        return self.rss_after - self.rss_before


class Crowd:
    """One deployment under load; `tell` is told how far a scenario is."""

    def __init__(self, deployment: Deployment, tell: Callable[[str], None] = lambda _: None) -> None:
        self.deployment, self.client = deployment, deployment.client
        self._tell = tell

    def huge(self, count: int) -> Figures:
        """Every record is a dead letter."""
        return self._all_set_aside("records of 1 MiB", list(poison.huge(count, unique("huge"))))

    def deep(self, count: int) -> Figures:
        """Every record is a dead letter."""
        return self._all_set_aside("JSON of 10,000 levels", list(poison.deep(count, unique("deep"))))

    def fuzz(self, count: int, seed: int = 1) -> Figures:
        """Every query record is decided, repeated or set aside, exactly once; no feedback stops anything."""
        before = self._answered()
        sent: list[Sent] = []
        figures = self._survive("fuzzed records", poison.fuzzed(count, seed, PARTITIONS), sent)
        asked = figures.queries
        until(lambda: self._answered() - before == asked, f"{asked} answers", _PATIENCE_S)
        assert all(len(self.client.set_aside(record)) <= 1 for record in sent)
        return figures

    def duplicates(self, count: int) -> Figures:
        """One query and its feedback, again and again: one decision, one settlement."""
        user, query_id = self.client.user(1.0), unique("again")
        records = itertools.chain.from_iterable(
            (poison.query(user, query_id), poison.feedback(user, query_id, cost_usd=0.001, reward=1))
            for _ in range(count // 2)
        )
        figures = self._survive("duplicates of one query and its feedback", records)
        decisions = self.client.decisions(query_id, count // 2)
        assert len({record.value for record in decisions}) == 1
        account = self.client.account(user)
        assert account is not None
        assert (account["settled_usd"], account["reserved_usd"]) == (0.001, 0)
        return figures

    def one_user(self, count: int) -> Figures:
        """All queries of one user, none settled until all are decided; then all settle to the nano-dollar."""
        user, ids = self.client.user(1_000_000.0), [unique("open") for _ in range(count)]
        self._survive("queries of one user, all open", (poison.query(user, query_id) for query_id in ids))
        held = sum(round(self._decision(query_id)["reservation_usd"] * 1e9) for query_id in ids)
        account = self.client.account(user)
        assert account is not None
        assert (account["settled_usd"], round(account["reserved_usd"] * 1e9)) == (0, held)
        records = (poison.feedback(user, query_id, cost_usd=0.001) for query_id in ids)
        figures = self._survive(f"feedback of one user with {count:,} open queries", records)
        account = self.client.account(user)
        assert account is not None
        assert (account["settled_usd"], account["reserved_usd"]) == (count / 1000, 0)
        return figures

    def many_users(self, count: int) -> Figures:
        """As many users, a query and a bill each."""
        name = unique("crowd")
        users = [f"{name}-{number}" for number in range(count)]
        records = itertools.chain.from_iterable(
            (poison.query(user, user), poison.feedback(user, user, cost_usd=0.001)) for user in users
        )
        figures = self._survive(f"{count:,} users", records)
        assert all(self._decision(user)["status"] == "routed" for user in users)
        return figures

    def _all_set_aside(self, name: str, records: list[Sendable]) -> Figures:
        sent: list[Sent] = []
        figures = self._survive(name, records, sent)
        codes = {self.client.code(record) for record in sent}
        assert codes <= {"invalid_json", "invalid_event"}, codes
        return figures

    def _survive(self, name: str, records: Iterable[Sendable], sent: list[Sent] | None = None) -> Figures:
        bystander, asked = unique("bystander"), list[str]()
        process = self.deployment.worker.process
        before, began, last = self._rss(), time.monotonic(), dict[tuple[str, int], Sent]()
        count = queries = 0
        for chunk in _chunks(_among(records, bystander, asked)):
            for sendable, record in zip(chunk, self.client.run(self._send(chunk)), strict=True):
                last[record.topic, record.partition] = record
                if sent is not None and sendable.key != bystander.encode():
                    sent.append(record)
            count += len(chunk)
            queries += sum(record.topic == "queries" for record in chunk)
            self._tell(f"{name}: {count:,} sent")
        until(lambda: self._committed(last.values()), f"the commit of {name}", _PATIENCE_S)
        assert all(self._decision(query_id)["status"] == "routed" for query_id in asked), "a bystander was not served"
        assert process.poll() is None
        assert self.deployment.worker.get("/healthz")[0] == 200, self.deployment.worker.get("/healthz")
        return Figures(name, count, queries, time.monotonic() - began, before, self._rss())

    def _committed(self, records: Iterable[Sent]) -> bool:
        worker = self.deployment.worker
        assert worker.process.poll() is None, worker.said()[-_LAST_WORDS:]
        ends = {TopicPartition(record.topic, record.partition): record.offset for record in records}
        return all(self.client.run(self.client._committed(tp)) > offset for tp, offset in ends.items())

    async def _send(self, records: list[Sendable]) -> list[Sent]:
        producer = self.client._producer
        names = [self._name(record.topic) for record in records]
        futures = [
            await producer.send(name, record.value, record.key, record.partition)
            for name, record in zip(names, records, strict=True)
        ]
        answers = await asyncio.gather(*futures)
        return [Sent(answer.topic, answer.partition, answer.offset, answer.timestamp, None) for answer in answers]

    def _decision(self, query_id: str) -> dict[str, Any]:
        (record, *_) = until(lambda: self.client.seen(query_id), f"decision of {query_id}", _PATIENCE_S)
        decision: dict[str, Any] = json.loads(record.value)
        return decision

    def _answered(self) -> float:
        return self.deployment.worker.metric("pilot_queries_total")

    def _name(self, topic: str) -> str:
        return self.deployment.settings.topic(topic)

    def _rss(self) -> float:
        pages = int(Path(f"/proc/{self.deployment.worker.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _among(records: Iterable[Sendable], bystander: str, asked: list[str]) -> Iterator[Sendable]:
    for number, record in enumerate(records):
        yield record
        if number % _BYSTANDER_EVERY == 0:
            asked.append(unique("q"))
            yield poison.query(bystander, asked[-1])


def _chunks(records: Iterator[Sendable]) -> Iterator[list[Sendable]]:
    while chunk := list(itertools.islice(records, _CHUNK)):
        yield chunk
