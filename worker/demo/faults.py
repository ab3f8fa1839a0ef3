"""Records that no worker can use, each with the dead-letter code it has to come back with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from worker.errors import DeadLetterCode

SourceTopic = Literal["queries", "feedback"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One unusable record. `misplaced`: put it on a partition that is not the key's."""

    code: DeadLetterCode
    topic: SourceTopic
    key: bytes
    value: bytes
    misplaced: bool = False


def unusable(user_id: str) -> tuple[Fault, ...]:
    """Faults that depend on nothing but themselves."""
    key = user_id.encode()
    text = {"user_id": user_id, "text": "What is the capital of France?"}
    return (
        Fault(DeadLetterCode.INVALID_JSON, "queries", key, b'{"query_id": "bad-json", '),
        Fault(DeadLetterCode.INVALID_EVENT, "queries", key, _json({"query_id": "bad-empty", "user_id": user_id})),
        Fault(
            DeadLetterCode.INVALID_EVENT,
            "feedback",
            key,
            _json({"query_id": "bad-reward", "user_id": user_id, "reward": "0.9"}),
        ),
        Fault(DeadLetterCode.INVALID_KEY, "queries", b"somebody-else", _json({"query_id": "bad-key", **text})),
        Fault(DeadLetterCode.WRONG_PARTITION, "queries", key, _json({"query_id": "bad-place", **text}), misplaced=True),
        Fault(
            DeadLetterCode.INVALID_EMBEDDING,
            "queries",
            key,
            _json({"query_id": "bad-length", "user_id": user_id, "embedding": [0.5, 0.5, 0.5]}),
        ),
        Fault(
            DeadLetterCode.UNKNOWN_QUERY,
            "feedback",
            key,
            _json({"query_id": "never-asked", "user_id": user_id, "reward": 1.0}),
        ),
    )


def unknown_model(query_id: str, user_id: str) -> Fault:
    """Feedback to a routed query for a model that nobody knows, without a cost."""
    value = {"query_id": query_id, "user_id": user_id, "model": "no-such-model", "reward": 0.5}
    return Fault(DeadLetterCode.UNKNOWN_MODEL, "feedback", user_id.encode(), _json(value))


def not_routed(query_id: str, user_id: str) -> Fault:
    """Feedback to a query that was rejected."""
    value = {"query_id": query_id, "user_id": user_id, "reward": 0.5}
    return Fault(DeadLetterCode.NOT_ROUTED, "feedback", user_id.encode(), _json(value))


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode()
