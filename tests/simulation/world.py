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
TTLS_S, PARKS_S = (2, 15, 200), (4, 300)
START_MS = 1_000_000_000_000  # a window starts here
_APART_MS = WINDOW_S * 1000 // 8  # eight queries a window
_AROUND_MS = 1_500  # how near to its end of life a late record comes
Timed = tuple[int, dict[str, Any]]


@dataclass
class World:
    """What the broker holds: records in log order, one partition each; `backlog`: all of it from the start."""

    ttl_s: int
    park_s: int
    backlog: bool
    queries: list[SourceRecord] = field(default_factory=list)
    feedback: list[SourceRecord] = field(default_factory=list)
    events: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    prepared: dict[tuple[str, int], Any] = field(default_factory=dict)

    def log(self, topic: str) -> list[SourceRecord]:
        return self.queries if topic == QUERIES else self.feedback

    @property
    def end_ms(self) -> int:
        return max(log[-1].timestamp for log in (self.queries, self.feedback))


def make(rng: random.Random) -> World:
    world = World(ttl_s=rng.choice(TTLS_S), park_s=rng.choice(PARKS_S), backlog=rng.random() < 0.4)
    asked = _asked(rng)
    again = [(_later(rng, world, at), query) for at, query in rng.choices(asked, k=len(asked) // 3)]
    for at, query in sorted(asked + again, key=lambda entry: entry[0]):
        offset = len(world.queries)
        _append(world, QUERIES, at, query, (("at", str(offset).encode()),))
    said = [entry for at, query in asked for entry in _feedback(rng, world, at, query)]
    said.append((START_MS, _about({"query_id": "never", "user_id": "u0"}, reward=0.5)))
    if rng.random() < 0.3:
        at, crowd = rng.choice(asked)  # more early feedback than there are parking places
        said += [(at - rng.randrange(_AROUND_MS), _about(crowd, reward=round(rng.random(), 3))) for _ in range(11)]
    for at, event in sorted(said, key=lambda entry: entry[0]):
        _append(world, FEEDBACK, max(at, START_MS), event)
    return world


def _asked(rng: random.Random) -> list[Timed]:
    asked: list[Timed] = []
    for number in range(rng.randrange(8, 30)):
        query = {
            "query_id": f"q{number}",
            "user_id": f"u{rng.randrange(3)}",
            "embedding": [1.0, rng.random(), rng.random()],
            "input_tokens": rng.randrange(10, 100),
        }
        if asked and rng.random() < 0.1:  # ids belong to their user
            other = rng.choice(asked)[1]
            query |= {"query_id": other["query_id"], "user_id": f"v{number}"}
        asked.append((START_MS + number * _APART_MS, query))
    return asked


def _later(rng: random.Random, world: World, at: int) -> int:
    """When something else about a query comes: soon, or around the end of its decision's life."""
    if world.ttl_s < 100 and rng.random() < 0.5:
        return at + world.ttl_s * 1000 + rng.randrange(-_AROUND_MS, _AROUND_MS)
    return at + rng.randrange(12_000)


def _feedback(rng: random.Random, world: World, at: int, query: dict[str, Any]) -> list[Timed]:
    cost = {"cost_usd": rng.randrange(1, 90) / 1000}
    reward = {"reward": rng.randrange(0, 1000) / 1000}
    tokens = {"input_tokens": 10, "output_tokens": rng.randrange(1, 500)}
    shapes: list[list[dict[str, Any]]] = [
        [{**cost, **reward}],
        [cost, reward],
        [{**cost, **tokens}, reward],
        [cost, tokens, reward],
        [tokens],
        [{**tokens, **reward}],
        [{"status": "error"}],
        [{"status": "timeout", **cost}],
        [{**cost, **reward, "model": rng.choice(MODELS)}],
        [{**tokens, **reward, "model": rng.choice(MODELS)}],
        [{**cost, **reward, "model": "unheard-of"}],
        [{**reward, "model": "unheard-of"}, cost],
        [],
    ]
    events = [dict(shape) for shape in rng.choice(shapes)]
    if events and rng.random() < 0.2:
        events.append({"cost_usd": rng.randrange(1, 90) / 1000, "reward": 0.123})  # says something else later
    early = rng.random() < 0.3
    return [
        (at - rng.randrange(6_000) if early else _later(rng, world, at), _about(query, **event)) for event in events
    ]


def _about(query: dict[str, Any], **event: Any) -> dict[str, Any]:
    return {"query_id": query["query_id"], "user_id": query["user_id"], **event}


def _append(
    world: World, topic: str, timestamp: int, event: dict[str, Any], headers: tuple[tuple[str, bytes], ...] = ()
) -> None:
    log = world.log(topic)
    world.events[topic, len(log)] = event
    value = json.dumps(event).encode()
    log.append(SourceRecord(topic, 0, len(log), timestamp, event["user_id"].encode(), value, headers))
