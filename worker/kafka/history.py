"""What the topics still hold about one query: its decision, and the feedback that came for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from worker.errors import OperationFailed
from worker.kafka.compacted import Record, read_to_end
from worker.settings import Settings

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """One event with the time of its record, ms since the epoch."""

    at_ms: int
    event: Event


@dataclass(frozen=True, slots=True)
class QueryHistory:
    """The decision as it was first written, how often it was, and the query's feedback, oldest first."""

    decision: Event
    times_sent: int
    feedback: tuple[Written, ...]


async def find(settings: Settings, query_id: str, user_id: str | None = None) -> QueryHistory:
    """Search the decisions and feedback topics from their beginnings; takes as long as reading them takes.

    Raises:
        OperationFailed: no broker, no decision that is still kept, or several users have one of this id.
    """
    decisions, feedback = _Matching(query_id, user_id), _Matching(query_id, user_id)
    await asyncio.gather(
        read_to_end(settings, settings.topic("decisions"), decisions.take),
        read_to_end(settings, settings.topic("feedback"), feedback.take),
    )
    users = sorted({written.event["user_id"] for written in decisions.found})
    if not users:
        raise OperationFailed(f"{query_id}: no decision of this id in {settings.topic('decisions')}")
    if len(users) > 1:
        raise OperationFailed(f"{query_id}: several users have one, choose with --user: {', '.join(users)}")
    mine = [written for written in feedback.found if written.event.get("user_id") == users[0]]
    return QueryHistory(decisions.found[0].event, len(decisions.found), tuple(mine))


class _Matching:
    """Keeps the events of one query id; most records are dismissed without being parsed."""

    def __init__(self, query_id: str, user_id: str | None) -> None:
        self.found: list[Written] = []
        self._query_id = query_id
        self._user = None if user_id is None else user_id.encode()
        self._trace = orjson.dumps(query_id)[1:-1]

    def take(self, record: Record) -> None:
        if record.value is None or (self._user is not None and record.key != self._user):
            return
        if self._trace not in record.value and b"\\" not in record.value:  # unless written as \uXXXX
            return
        event = event_of(record)
        if event is not None and event.get("query_id") == self._query_id:
            self.found.append(Written(record.timestamp, event))


def event_of(record: Record) -> Event | None:
    """The record's JSON object; None for what the worker would set aside as no JSON."""
    try:
        event = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None
