"""Records that no well-meaning client sends: seeded, so that a run can be repeated."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MIB = 1024 * 1024
EMBEDDING = [1] + [0] * 383
USERS = 50
_JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 1e308, 10**30, -(10**25), "", "x", "*", "x" * 300, "\0", "\u202e", "é" * 200, [], {}, [[]],
    {"a": [None]}, [1] * 500, ["x"] * 40, "NaN", {"k": "v" * 5_000}, 2**63, "1.0",
)  # fmt: skip
_QUERY_FIELDS = (
    "query_id", "user_id", "text", "embedding", "task", "models", "requires", "max_cost_usd", "input_tokens",
    "max_output_tokens", "metadata", "unheard_of",
)  # fmt: skip
_FEEDBACK_FIELDS = (
    "query_id", "user_id", "reward", "cost_usd", "input_tokens", "output_tokens", "status", "model", "latency_ms",
    "source", "unheard_of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sendable:
    """A record for `queries` or `feedback`; `partition` None: where its key belongs."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


def query(user: str, query_id: str, **fields: Any) -> Sendable:
    content = {"query_id": query_id, "user_id": user, "embedding": EMBEDDING, "input_tokens": 10, **fields}
    return Sendable("queries", user.encode(), json.dumps(content).encode())


def feedback(user: str, query_id: str, **fields: Any) -> Sendable:
    content = {"query_id": query_id, "user_id": user, **fields}
    return Sendable("feedback", user.encode(), json.dumps(content).encode())


def huge(count: int, user: str) -> Iterator[Sendable]:
    """Records of a mebibyte: too long a text, too long a feedback, and no JSON at all."""
    for number in range(count):
        yield (
            query(user, f"huge-{number}", text="x" * MIB),
            feedback(user, f"huge-{number}", reward=1, note="x" * MIB),
            Sendable("queries", user.encode(), b"\xff" * MIB),
            Sendable("feedback", user.encode(), b'"' + b"x" * MIB + b'"'),
        )[number % 4]


def deep(count: int, user: str, levels: int = 10_000) -> Iterator[Sendable]:
    """JSON that nests so deeply that a reader which recurses would die of it."""
    shapes = (b"[" * levels + b"]" * levels, b'{"a":' * levels + b"1" + b"}" * levels, b"[" * levels)
    for number in range(count):
        inner = shapes[number % 3]
        value = (
            inner if number % 2 else b'{"query_id":"q","user_id":"' + user.encode() + b'","metadata":' + inner + b"}"
        )
        yield Sendable(("queries", "feedback")[number % 2], user.encode(), value)


def fuzzed(count: int, seed: int, partitions: int) -> Iterator[Sendable]:
    """Events with anything in any field, broken bytes, keys and partitions; one in five is as it should be."""
    rng = random.Random(seed)
    for number in range(count):
        user, query_id = f"fuzz-{rng.randrange(USERS)}", f"fuzz-{seed}-{rng.randrange(count)}"
        if number % 2:
            good, fields = query(user, query_id, max_cost_usd=1), _QUERY_FIELDS
        else:
            good, fields = feedback(user, query_id, reward=rng.random(), cost_usd=0.001), _FEEDBACK_FIELDS
        yield good if rng.random() < 0.2 else _spoilt(rng, good, fields, partitions)


def _spoilt(rng: random.Random, good: Sendable, fields: tuple[str, ...], partitions: int) -> Sendable:
    value, key, partition = good.value or b"", good.key, good.partition
    kind = rng.randrange(8)
    if kind < 3:
        content = json.loads(value)
        for _ in range(rng.randrange(1, 4)):
            content[rng.choice(fields)] = rng.choice(_JUNK)
        value = json.dumps(content).encode(errors="surrogatepass")
    elif kind == 3:
        content = json.loads(value)
        content.pop(rng.choice(sorted(content)))
        value = json.dumps(content).encode()
    elif kind == 4:
        value = value[: rng.randrange(len(value))]
    elif kind == 5:
        spot = rng.randrange(len(value))
        value = value[:spot] + rng.randbytes(rng.randrange(1, 4)) + value[spot + 1 :]
    elif kind == 6:
        value = rng.randbytes(rng.randrange(200))
    elif rng.random() < 0.5:
        key = rng.choice((None, b"", b"\xff", b"somebody else"))
    else:
        partition = rng.randrange(partitions)
    return Sendable(good.topic, key, value, partition)
