"""What can be observed, as facts: the worker emits these records, adapters make metrics and log lines of them.

No record carries a prompt, an embedding or a user's words. Money is in nano-dollars, times are seconds.
What is made for every event is a named tuple: a frozen data class takes three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from worker.core.verdict import Reason
from worker.errors import DeadLetterCode

QueryOutcome = Literal["routed", "rejected", "repeated", "dead_letter"]
Part = Literal["money", "reward", "tokens", "record"]
PartOutcome = Literal["applied", "duplicate", "substituted", "unknown_model", "parked", "dead_letter"]
FailedStatus = Literal["error", "timeout"]


class QueryHandled(NamedTuple):
    """A query record was dealt with."""

    outcome: QueryOutcome


class Stages(NamedTuple):
    """Where a decision's latency went, in seconds; the four add up to it.

    `wait`: from the broker's timestamp until the worker took the query up. `encode`: until its context
    was known and its turn came. `decide`: until the decision stood. `write`: until it was acknowledged.
    """

    wait: float
    encode: float
    decide: float
    write: float


class DecisionSent(NamedTuple):
    """A decision was acknowledged by the broker; `stages` None for a repeat.

    `expected_reward` and `uncertainty` (one standard deviation) are the chosen model's; `baseline_nanos` and
    `baseline_reward` are the best model's, estimated; all are None where rejected. `exploring`: another
    eligible model looked better at its price.
    """

    policy: str
    status: Literal["routed", "rejected"]
    model: str | None
    reason: Reason | None
    stages: Stages | None = None
    estimated_nanos: int | None = None
    baseline_nanos: int | None = None
    expected_reward: float | None = None
    baseline_reward: float | None = None
    uncertainty: float | None = None
    exploring: bool = False
    query_id: str = ""
    user_id: str = ""


class FeedbackPartHandled(NamedTuple):
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


class FeedbackArrived(NamedTuple):
    """The first feedback of a decision; `delay_s` in broker time since its query, 0 if it came before the decision."""

    delay_s: float


class RewardGiven(NamedTuple):
    """A reward, 0 to 1, for the model that ran; `expected` at the decision, None where another model was decided."""

    model: str
    reward: float
    expected: float | None


class MoneySettled(NamedTuple):
    """A call's cost was settled for the model that ran, empty where that is not known here.

    `expected_nanos` at the decision, None where the call failed or another model was decided.
    """

    model: str
    nanos: int
    expected_nanos: int | None = None


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
    """How many rewards the replica knows of a model, over all partitions, and their sum."""

    model: str
    observations: int
    reward_sum: float = 0.0


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
    | FeedbackArrived
    | RewardGiven
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
