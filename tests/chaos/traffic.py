"""A client that behaves like real ones at their worst, seeded: what it sends, and when.

Queries: new, repeated, unusable. Feedback: in parts, early, duplicate, conflicting, for
substituted models, failed, for queries nobody asked; sent without waiting or only after
the decision was read.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.chaos.evidence import ASK, EXPECTED_CODE
from worker.kafka.partitioning import partition_of
from worker.settings import Settings

MODELS: dict[str, dict[str, Any]] = {
    "small": {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4, "expected_output_tokens": 100},
    "medium": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0, "request_usd": 0.0001},
    "large": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 40.0, "tags": ["clever"]},
}
USERS = 40
LIMITS_USD = {f"user-{number}": 0.1 for number in range(1, 21)}  # the others have no budget
DIMENSION = 384
REQUEST_TIMEOUT_MS = 180_000  # longer than any outage of the suite: the client loses nothing
_EMBEDDINGS, _RECENT = 40, 300
Event = dict[str, Any]


@dataclass(slots=True)
class Client:
    """Sends `rate` queries a second with their feedback; `sent` counts records by kind."""

    settings: Settings
    partitions: int
    rng: random.Random
    sent: Counter[str] = field(default_factory=Counter)
    _numbers: Any = field(default_factory=itertools.count)
    _waiting: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    _later: list[tuple[float, int, tuple[Event, Event]]] = field(default_factory=list)
    _recent: list[tuple[Event, Event]] = field(default_factory=list)
    _unsent: set[asyncio.Future[Any]] = field(default_factory=set)
    _embeddings: list[str] = field(default_factory=list)
    _asked_all: asyncio.Event = field(default_factory=asyncio.Event)
    _producer: Any = None

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Send until told to stop and until every answer that feedback waits for has come."""
        self._embeddings = [_embedding(self.rng) for _ in range(_EMBEDDINGS)]
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
                await self._ask(*heapq.heappop(self._later)[2])
            await asyncio.sleep(0.02)

    async def _settled(self) -> None:
        while self._unsent:
            await asyncio.gather(*self._unsent)

    async def _one(self) -> None:
        rng, number = self.rng, next(self._numbers)
        user = f"user-{min(int(rng.paretovariate(0.7)) - 1, USERS - 1)}"
        query = self._query(user, f"q-{number}")
        place: Event = {"query_id": query["query_id"], "user_id": user}
        feedback = [{**place, **part} for part in _feedback(rng)]
        when = rng.random()
        if when < 0.12 and feedback:  # before its query
            early = rng.randint(1, len(feedback))
            for event in feedback[:early]:
                await self._say("early", event)
            self._await_answer(feedback[early:])
            heapq.heappush(self._later, (time.monotonic() + rng.uniform(0, 2), number, (query, place)))
        else:
            waits = when >= 0.4
            if waits:  # noted first: the decision may come before the send returns
                self._await_answer(feedback)
            await self._ask(query, place)
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
            query, place = rng.choice(self._recent[-back:])
            again = query if rng.random() < 0.5 else {**self._query(place["user_id"], place["query_id"])}
            await self._ask(again, place, "repeated")
        if rng.random() < 0.03:
            await self._bad(user, number)
        if rng.random() < 0.01:
            await self._say("never asked", {"query_id": f"nobody-{number}", "user_id": user, **_rating(rng)})
        if rng.random() < 0.003:
            await self._crowd(user, f"crowd-{number}")

    async def _crowd(self, user: str, query_id: str) -> None:
        """More early feedback than a query has parking places."""
        place: Event = {"query_id": query_id, "user_id": user}
        for _ in range(11):
            await self._say("crowd", {**place, **_rating(self.rng)})
        await self._ask(self._query(user, query_id), place)

    def _query(self, user: str, query_id: str) -> Event:
        rng, event = self.rng, {"query_id": query_id, "user_id": user}
        if rng.random() < 0.2:
            event["models"] = rng.sample(list(MODELS), 2)
        if rng.random() < 0.1:
            event["max_cost_usd"] = rng.choice([1e-9, 0.001, 0.01])
        if rng.random() < 0.5:
            event["input_tokens"] = rng.randrange(1, 2000)
        if rng.random() < 0.1:
            event["metadata"] = {"trace": f"{rng.getrandbits(32):x}"}
        if rng.random() < 0.03:
            event["requires"] = [rng.choice(["clever", "no-such-tag"])]
        return event

    async def _ask(self, query: Event, place: Event, kind: str = "new") -> None:
        self._recent = [*self._recent[-_RECENT:], (query, place)]
        value = f'{json.dumps(query)[:-1]}, "embedding": {self.rng.choice(self._embeddings)}}}'.encode()
        headers = [(ASK, str(next(self._numbers)).encode())]
        await self._send("queries", kind, place["user_id"].encode(), value, headers)

    async def _say(self, kind: str, event: Event) -> None:
        await self._send("feedback", kind, event["user_id"].encode(), json.dumps(event).encode(), [])

    async def _bad(self, user: str, number: int) -> None:
        topic = self.rng.choice(["queries", "feedback"])
        code, key, value, shift = self.rng.choice(_unusable(topic, user, f"bad-{number}"))
        headers = [(EXPECTED_CODE, code.encode())]
        await self._send(topic, f"bad {topic}", key, value, headers, shift=shift)

    async def _send(
        self, topic: str, kind: str, key: bytes | None, value: bytes | None, headers: list[Any], *, shift: int = 0
    ) -> None:
        partition = 0 if key is None else (partition_of(key, self.partitions) + shift) % self.partitions
        name = self.settings.topic(topic)
        future = await self._producer.send(name, value, key=key, partition=partition, headers=headers)
        self._unsent.add(future)
        future.add_done_callback(self._unsent.discard)
        self.sent[kind] += 1

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


def _embedding(rng: random.Random) -> str:
    return json.dumps([round(rng.gauss(0, 1), 2) for _ in range(DIMENSION)])


def _feedback(rng: random.Random) -> list[Event]:
    """The feedback of one query, in the order in which it is sent."""
    cost, tokens = {"cost_usd": round(rng.uniform(0, 0.01), 6)}, _tokens(rng)
    kinds: dict[str, tuple[int, list[Event]]] = {
        "whole": (34, [{**cost, **tokens, **_rating(rng)}]),
        "cost, then rating": (16, [cost, _rating(rng)]),
        "cost, then tokens": (12, [cost, {**tokens, **_rating(rng)}]),
        "tokens": (10, [tokens]),
        "rating": (6, [_rating(rng)]),
        "failed": (6, [{"status": rng.choice(["error", "timeout"]), **rng.choice([{}, cost, tokens])}]),
        "fell back": (8, [{"model": rng.choice(list(MODELS)), **rng.choice([cost, tokens]), **_rating(rng)}]),
        "unknown model": (3, [{"model": "no-such-model", **rng.choice([cost, tokens]), **_rating(rng)}]),
        "none": (5, []),
    }
    weights = [weight for weight, _ in kinds.values()]
    ((_, events),) = rng.choices(list(kinds.values()), weights)
    if events and rng.random() < 0.1:  # the same again, or another claim
        events = [*events, rng.choice([events[0], {**cost, **_tokens(rng), **_rating(rng)}])]
    return events


def _rating(rng: random.Random) -> Event:
    return {"reward": round(rng.random(), 3)}


def _tokens(rng: random.Random) -> Event:
    return {"input_tokens": rng.randrange(1, 2000), "output_tokens": rng.randrange(0, 1000)}


def _unusable(topic: str, user: str, query_id: str) -> list[tuple[str, bytes | None, bytes | None, int]]:
    """Records that no worker can use: code, key, value, partitions that they are off their place."""
    key, place = user.encode(), {"query_id": query_id, "user_id": user}

    def with_(**fields: Any) -> bytes:
        return json.dumps({**place, **fields}).encode()

    fine = with_(embedding=[1.0] * DIMENSION) if topic == "queries" else with_(reward=0.5)
    found = [
        *(("invalid_json", key, value, 0) for value in (None, b"", b"\xff", b"[]", b"{", b'{"reward": NaN}')),
        ("invalid_event", key, with_(), 0),
        ("invalid_key", None, fine, 0),
        ("invalid_key", b"somebody-else", fine, 0),
        ("wrong_partition", key, fine, 1),
    ]
    if topic == "queries":
        wrong = ([1.0] * 3, [0.0] * DIMENSION)
        found += [("invalid_embedding", key, with_(embedding=vector), 0) for vector in wrong]
        found += [("invalid_event", key, with_(text="x", models=[]), 0)]
    else:
        found += [("invalid_event", key, with_(**fields), 0) for fields in ({"reward": "1"}, {"input_tokens": 3})]
    return found
