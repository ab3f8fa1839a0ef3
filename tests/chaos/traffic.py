"""A client that behaves like real ones at their worst, seeded: what it sends, and when.

Queries: new, repeated, unusable, with an embedding or a text. Feedback: in parts, early,
duplicate, conflicting, for substituted models, failed, for queries nobody asked; sent
without waiting or only after the decision was read. A few of both in transactions, half
of which are aborted.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from tests.chaos import events
from tests.chaos.evidence import ASK, EXPECTED_CODE
from worker.kafka.partitioning import partition_of
from worker.settings import Settings

RESENT = 60
REQUEST_TIMEOUT_MS = 180_000  # longer than any outage of the suite: the client loses nothing
TRANSACTION_TIMEOUT_MS = 10_000
_EMBEDDINGS, _RECENT = 40, 300
_TEXT_SHARE = 0.3
Event = events.Event


@dataclass(slots=True)
class Client:
    """Sends `rate` queries a second with their feedback; `sent` counts records by kind."""

    settings: Settings
    partitions: int
    rng: random.Random
    sent: Counter[str] = field(default_factory=Counter)
    _numbers: Any = field(default_factory=itertools.count)
    _waiting: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    _later: list[tuple[float, int, Event]] = field(default_factory=list)
    _recent: list[Event] = field(default_factory=list)
    _unsent: set[asyncio.Future[Any]] = field(default_factory=set)
    _embeddings: list[str] = field(default_factory=list)
    _asked_all: asyncio.Event = field(default_factory=asyncio.Event)
    _producer: Any = None
    _said: deque[tuple[str, bytes, bytes]] = field(default_factory=lambda: deque(maxlen=RESENT))

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Send until told to stop and until every answer that feedback waits for has come."""
        self._embeddings = [events.embedding(self.rng) for _ in range(_EMBEDDINGS)]
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap_servers, enable_idempotence=True, linger_ms=5,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )  # fmt: skip
        await self._producer.start()
        reading = asyncio.create_task(self._answer())
        try:
            await self._pace(rate, stop)
            self._asked_all.set()
            await reading
            await self._settled()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._producer.stop()

    async def resend(self) -> None:
        """The last records of both topics again, in any order: a producer that retries without idempotence."""
        for topic, key, value in self.rng.sample(list(self._said), len(self._said)):
            headers = [(ASK, str(next(self._numbers)).encode())] if topic == "queries" else []
            await self._send(topic, "resent", key, value, headers)

    @property
    def unanswered(self) -> int:
        """Queries whose decision has not been seen though feedback waits for it."""
        return len(self._waiting)

    async def _pace(self, rate: float, stop: asyncio.Event) -> None:
        began, asked = time.monotonic(), 0
        while not stop.is_set() or self._later:
            passed = time.monotonic() - began
            if not stop.is_set() and passed * rate > asked + rate:
                asked = int(passed * rate)  # what an outage held up is not made up for
            while not stop.is_set() and asked < passed * rate:
                asked += 1
                await self._one()
            while self._later and (stop.is_set() or self._later[0][0] <= time.monotonic()):
                await self._ask(heapq.heappop(self._later)[2])
            await asyncio.sleep(0.02)

    async def _settled(self) -> None:
        while self._unsent:
            await asyncio.gather(*self._unsent)

    async def _one(self) -> None:
        rng, number = self.rng, next(self._numbers)
        user = f"user-{min(int(rng.paretovariate(0.7)) - 1, events.USERS - 1)}"
        query = events.query(self.rng, user, f"q-{number}")
        place: Event = {"query_id": query["query_id"], "user_id": user}
        feedback = [{**place, **part} for part in events.feedback(rng)]
        when = rng.random()
        if when < 0.12 and feedback:  # before its query
            early = rng.randint(1, len(feedback))
            for event in feedback[:early]:
                await self._say("early", event)
            self._await_answer(feedback[early:])
            heapq.heappush(self._later, (time.monotonic() + rng.uniform(0, 2), number, query))
        else:
            waits = when >= 0.4
            if waits:  # noted first: the decision may come before the send returns
                self._await_answer(feedback)
            await self._ask(query)
            for event in [] if waits else feedback:
                await self._say("at once", event)
        await self._oddities(user, number)

    def _await_answer(self, feedback: list[Event]) -> None:
        for event in feedback:
            self._waiting[event["user_id"], event["query_id"]].append(event)

    async def _oddities(self, user: str, number: int) -> None:
        rng = self.rng
        if self._recent and rng.random() < 0.04:
            back = 5 if rng.random() < 0.5 else len(self._recent)
            query = rng.choice(self._recent[-back:])
            other = events.query(rng, query["user_id"], query["query_id"])
            await self._ask(rng.choice([query, other]), "repeated")
        if rng.random() < 0.05:
            await self._bad(user, number)
        if rng.random() < 0.02:
            await self._say("never asked", {"query_id": f"nobody-{number}", "user_id": user, **events.rating(rng)})
        if rng.random() < 0.01:
            await self._transaction(user, f"t-{number}", aborted=rng.random() < 0.5)
        if rng.random() < 0.005:
            await self._crowd(user, f"crowd-{number}")

    async def _transaction(self, user: str, query_id: str, *, aborted: bool) -> None:
        """A query and its feedback in one transaction; an aborted one was never sent."""
        place: Event = {"query_id": query_id, "user_id": user}
        kind = "aborted" if aborted else "in a transaction"
        # The same transactional id every time, which also ends what an outage left open.
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS,
            transactional_id=f"{self.settings.application_id}-client", transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )  # fmt: skip
        try:
            await producer.start()
            await producer.begin_transaction()
            await self._ask(events.query(self.rng, user, query_id), kind, producer)
            await self._say(kind, {**place, **events.rating(self.rng)}, producer)
            await (producer.abort_transaction() if aborted else producer.commit_transaction())
        except KafkaError:
            self.sent["failed transaction"] += 1  # whether it counts, the log says
        finally:
            await producer.stop()

    async def _crowd(self, user: str, query_id: str) -> None:
        """More early feedback than a query has parking places."""
        place: Event = {"query_id": query_id, "user_id": user}
        for _ in range(11):
            await self._say("crowd", {**place, **events.rating(self.rng)})
        await self._ask(events.query(self.rng, user, query_id))

    async def _ask(self, query: Event, kind: str = "new", producer: Any = None) -> None:
        self._recent = [*self._recent[-_RECENT:], query]
        needs_encoder = self.rng.random() < _TEXT_SHARE
        content = events.text(self.rng) if needs_encoder else self.rng.choice(self._embeddings)
        value = f"{json.dumps(query)[:-1]}, {content}}}".encode()
        headers = [(ASK, str(next(self._numbers)).encode())]
        await self._send("queries", kind, query["user_id"].encode(), value, headers, producer=producer)

    async def _say(self, kind: str, event: Event, producer: Any = None) -> None:
        await self._send("feedback", kind, event["user_id"].encode(), json.dumps(event).encode(), [], producer=producer)

    async def _bad(self, user: str, number: int) -> None:
        kinds = events.unusable(user, f"bad-{number}")
        bad = kinds[(self.sent["bad queries"] + self.sent["bad feedback"]) % len(kinds)]
        headers = [(EXPECTED_CODE, bad.code.encode())]
        await self._send(bad.topic, f"bad {bad.topic}", bad.key, bad.value, headers, shift=bad.shift)

    async def _send(
        self, topic: str, kind: str, key: bytes | None, value: bytes | None, headers: list[Any], *, shift: int = 0,
        producer: Any = None,
    ) -> None:  # fmt: skip
        partition = 0 if key is None else (partition_of(key, self.partitions) + shift) % self.partitions
        name = self.settings.topic(topic)
        through = producer or self._producer
        future = await through.send(name, value, key=key, partition=partition, headers=headers)
        self.sent[kind] += 1
        if producer is None and key is not None and value is not None and EXPECTED_CODE not in dict(headers):
            self._said.append((topic, key, value))
        if producer is None:  # those of a transaction may fail with it
            self._unsent.add(future)
            future.add_done_callback(self._unsent.discard)

    async def _answer(self) -> None:
        """Read decisions and send the feedback that waits for them."""
        topic = self.settings.topic("decisions")
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap_servers, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, number) for number in range(self.partitions)])
            while self._waiting or not self._asked_all.is_set():
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    for record in records:
                        decision = json.loads(record.value)
                        for event in self._waiting.pop((decision["user_id"], decision["query_id"]), ()):
                            await self._say("after the decision", event)
        finally:
            await consumer.stop()
