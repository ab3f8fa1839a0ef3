"""What can be observed, as facts: the worker emits these records, adapters make metrics and log lines of them.

No record carries a prompt, an embedding or a user's words. Money is in nano-dollars, times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from worker.core.verdict import Reason
from worker.errors import DeadLetterCode

QueryOutcome = Literal["routed", "rejected", "repeated", "dead_letter"]
Part = Literal["money", "reward", "tokens", "record"]
PartOutcome = Literal["applied", "duplicate", "substituted", "unknown_model", "parked", "dead_letter"]
FailedStatus = Literal["error", "timeout"]


@dataclass(frozen=True, slots=True)
class QueryHandled:
    """A query record was dealt with."""

    outcome: QueryOutcome


@dataclass(frozen=True, slots=True)
class DecisionSent:
    """A decision was acknowledged by the broker; `latency_s` since the query's broker timestamp, None for a repeat.

    `baseline_nanos` is what the best model would have cost, estimated; both amounts are None where rejected.
    """

    policy: str
    status: Literal["routed", "rejected"]
    model: str | None
    reason: Reason | None
    latency_s: float | None
    estimated_nanos: int | None
    baseline_nanos: int | None
    query_id: str = ""
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class FeedbackPartHandled:
    """What became of one part of a feedback record, or of the whole `record`.

    `substituted`: applied, for another model than the decided one. `unknown_model`: nothing
    learned, since no such model is known. `parked` and `dead_letter` are said of the `record`.
    """

    part: Part
    outcome: PartOutcome


@dataclass(frozen=True, slots=True)
class DeadLetterSent:
    """A record was set aside; `topic` is the one it came from, without prefix."""

    topic: str
    partition: int
    offset: int
    code: DeadLetterCode


@dataclass(frozen=True, slots=True)
class MoneySettled:
    """A call's cost was settled for the model that ran."""

    model: str
    nanos: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """Feedback said that a model's call ended in an error or a timeout."""

    model: str
    status: FailedStatus


@dataclass(frozen=True, slots=True)
class CostAboveBound:
    """A reported cost exceeds the bound that its decision reserved: the worst case was not the worst."""

    model: str
    nanos: int
    bound_nanos: int


@dataclass(frozen=True, slots=True)
class UnlimitedQuery:
    """A query of a user who has no budget record, and there is none for `*`."""


@dataclass(frozen=True, slots=True)
class ControlRecordSkipped:
    """A bad record on a control topic (name without prefix); the last good value stays."""

    topic: str
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelLearned:
    """How many rewards the replica knows of a model, over all partitions."""

    model: str
    observations: int


@dataclass(frozen=True, slots=True)
class Lag:
    """Records of a source partition between the commit and the last stable offset; None: no longer ours."""

    topic: str
    partition: int
    records: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """Offsets were committed; `timestamp_s` is the wall clock, since 1970."""

    timestamp_s: float


@dataclass(frozen=True, slots=True)
class RecordsLost:
    """Retention removed records that were never read."""

    topic: str
    partition: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class TextsEncoded:
    """Texts looked up in the encoder's cache."""

    hits: int
    misses: int


Record = (
    QueryHandled
    | DecisionSent
    | FeedbackPartHandled
    | DeadLetterSent
    | MoneySettled
    | CallFailed
    | CostAboveBound
    | UnlimitedQuery
    | ControlRecordSkipped
    | ModelLearned
    | Lag
    | Committed
    | RecordsLost
    | TextsEncoded
)


class Observer(Protocol):
    """Receives records; must be quick, safe to call from any thread, and never raise."""

    def observe(self, record: Record) -> None:
        """Take note of one fact."""


class Observers:
    """Several observers as one; without any, records go nowhere."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def observe(self, record: Record) -> None:
        """Pass the record on to each, in the order given."""
        for observer in self._observers:
            observer.observe(record)
