"""The events of the client: what queries and feedback look like, good and bad, drawn by a seeded generator."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from tests.chaos.evidence import SOURCES

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "input_usd_per_mtok": 0.1,
        "output_usd_per_mtok": 0.4,
        "expected_output_tokens": 100,
        "max_output_tokens": 2000,
    },
    "medium": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0, "request_usd": 0.0001, "max_output_tokens": 1000},
    "large": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 40.0, "tags": ["clever"], "max_output_tokens": 1000},
}
USERS = 40
LIMITS_USD = {f"user-{number}": 0.1 for number in range(1, 21)}  # the others have no budget
DIMENSION = 384
Event = dict[str, Any]


def query(rng: random.Random, user: str, query_id: str) -> Event:
    """A query without its content."""
    event: Event = {"query_id": query_id, "user_id": user}
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


def embedding(rng: random.Random) -> str:
    """The JSON member of a query that brings its embedding."""
    return f'"embedding": {[round(rng.gauss(0, 1), 2) for _ in range(DIMENSION)]}'


def text(rng: random.Random) -> str:
    """The JSON member of a query that needs the encoder."""
    return f'"text": "question {rng.getrandbits(64):x}"'


def feedback(rng: random.Random) -> list[Event]:
    """The feedback of one query, in the order in which it is sent."""
    cost, tokens = {"cost_usd": round(rng.uniform(0, 0.01), 6)}, _tokens(rng)
    kinds: dict[str, tuple[int, list[Event]]] = {
        "whole": (34, [{**cost, **tokens, **rating(rng)}]),
        "cost, then rating": (16, [cost, rating(rng)]),
        "cost, then tokens": (12, [cost, {**tokens, **rating(rng)}]),
        "tokens": (10, [tokens]),
        "rating": (6, [rating(rng)]),
        "failed": (6, [{"status": rng.choice(["error", "timeout"]), **rng.choice([{}, cost, tokens])}]),
        "fell back": (8, [{"model": rng.choice(list(MODELS)), **rng.choice([cost, tokens]), **rating(rng)}]),
        "unknown model": (3, [{"model": "no-such-model", **rng.choice([cost, tokens]), **rating(rng)}]),
        "none": (5, []),
    }
    weights = [weight for weight, _ in kinds.values()]
    ((_, parts),) = rng.choices(list(kinds.values()), weights)
    if parts and rng.random() < 0.1:  # the same again, or another claim
        parts = [*parts, rng.choice([parts[0], {**cost, **_tokens(rng), **rating(rng)}])]
    return parts


def rating(rng: random.Random) -> Event:
    return {"reward": round(rng.random(), 3)}


def _tokens(rng: random.Random) -> Event:
    return {"input_tokens": rng.randrange(1, 2000), "output_tokens": rng.randrange(0, 1000)}


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that no worker can use; `shift`: how many partitions it is off its place."""

    topic: str
    code: str
    key: bytes | None
    value: bytes | None
    shift: int = 0


def unusable(user: str, query_id: str) -> list[Unusable]:
    """Every kind of it, in both topics."""
    return [Unusable(topic, *record) for topic in SOURCES for record in _unusable(topic, user, query_id)]


def _unusable(topic: str, user: str, query_id: str) -> list[tuple[str, bytes | None, bytes | None, int]]:
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
