"""Random worlds: two source logs of one partition, with everything that clients do to a router."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from worker.stream.batch import SourceRecord

QUERIES, FEEDBACK = "sim.queries", "sim.feedback"
MODELS = ("small", "large")
WINDOW_S = 10
DIMENSION = 3


@dataclass
class World:
    """What the broker holds: records in log order, one partition each."""

    queries: list[SourceRecord] = field(default_factory=list)
    feedback: list[SourceRecord] = field(default_factory=list)

    def log(self, topic: str) -> list[SourceRecord]:
        return self.queries if topic == QUERIES else self.feedback


def make(rng: random.Random) -> World:
    world = World()
    asked = [_query(rng, number) for number in range(rng.randrange(8, 30))]
    log = list(asked)
    for _ in range(len(asked) // 8):
        log.insert(rng.randrange(len(log)), rng.choice(asked))  # somebody sends a query again
    for number, query in enumerate(log):
        timestamp = int(number * WINDOW_S * 1000 / 8)  # eight queries a window
        world.queries.append(_record(QUERIES, len(world.queries), timestamp, query))
    said = [event for query in asked for event in _feedback(rng, query)]
    said += [_about({"query_id": "never", "user_id": "u0"}, reward=0.5)]
    for index in range(len(said)):
        other = min(len(said) - 1, index + rng.randrange(6))
        said[index], said[other] = said[other], said[index]
    if rng.random() < 0.3:
        crowd = rng.choice(asked)  # more early feedback than there are parking places
        said[:0] = [_about(crowd, reward=round(rng.random(), 3)) for _ in range(11)]
    for event in said:
        world.feedback.append(_record(FEEDBACK, len(world.feedback), 0, event))
    return world


def _query(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "query_id": f"q{number}",
        "user_id": f"u{rng.randrange(3)}",
        "embedding": [1.0, rng.random(), rng.random()],
        "input_tokens": rng.randrange(10, 100),
    }


def _feedback(rng: random.Random, query: dict[str, Any]) -> list[dict[str, Any]]:
    cost = {"cost_usd": rng.randrange(1, 90) / 1000}
    reward = {"reward": rng.randrange(0, 1000) / 1000}
    tokens = {"input_tokens": 10, "output_tokens": rng.randrange(1, 500)}
    shapes: list[list[dict[str, Any]]] = [
        [{**cost, **reward}],
        [cost, reward],
        [{**cost, **tokens}, reward],
        [cost, tokens, reward],
        [tokens],
        [{"status": "error"}],
        [{"status": "timeout", **cost}],
        [{**cost, **reward, "model": rng.choice(MODELS)}],
        [{**cost, **reward, "model": "unheard-of"}],
        [{**reward, "model": "unheard-of"}, cost],
        [],
    ]
    events = [dict(shape) for shape in rng.choice(shapes)]
    if events and rng.random() < 0.2:
        events.append({"cost_usd": rng.randrange(1, 90) / 1000, "reward": 0.123})  # says something else later
    return [_about(query, **event) for event in events]


def _about(query: dict[str, Any], **event: Any) -> dict[str, Any]:
    return {"query_id": query["query_id"], "user_id": query["user_id"], **event}


def _record(topic: str, offset: int, timestamp: int, event: dict[str, Any]) -> SourceRecord:
    return SourceRecord(topic, 0, offset, timestamp, event["user_id"].encode(), json.dumps(event).encode())
