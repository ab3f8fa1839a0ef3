"""A query's life: early feedback, decision, settled parts. `Pending` is the arbiter.

It records under which event each part of the feedback was applied, so after any
crash a replay knows what this query already contributed, whatever the new
interleaving of the two topics. Transitions are pure: they return a new record. All
are named tuples, for several are made for every event and a frozen data class takes
three times as long.

    (nothing) ──feedback──▶ parked ──query──▶ decided ──feedback──▶ money / reward / tokens
         │                     └──park_s──▶ refused (unknown_query)        each exactly once
         └──────────query─────────────────▶ decided | rejected
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.fence import Event, Source
from worker.core.learn import Lesson
from worker.core.verdict import FloatArray
from worker.errors import DeadLetterCode
from worker.money import NANOS_PER_USD, to_nanos

MAX_PARKED = 8
MAX_DENIED = 16
_MOST_TOKENS = 1_000_000_000  # as a caller may report; more is inferred only where a price is next to nothing

PartName = Literal["money", "reward", "tokens"]
PartOutcome = Literal["applied", "substituted", "duplicate", "replayed", "parked", "unknown_model", "refused"]
ModelLookup = Callable[[str], Arm | None]


class Money(NamedTuple):
    """The settled cost. `model` None: the model is unknown here, so nothing was learned."""

    nanos: int
    event: Event
    model: str | None
    failed: bool = False

    @property
    def source(self) -> Source:
        """The topic under whose event the money settled."""
        return self.event.source


class Reward(NamedTuple):
    """The learned reward, 0 to 1."""

    value: float
    event: Event
    model: str


class Tokens(NamedTuple):
    """Learned output tokens, reported by the caller or inferred from the cost."""

    number: int
    event: Event
    model: str


Part = TypeVar("Part", Money, Reward, Tokens)


class Outcome(NamedTuple):
    """What became of one feedback: per part, and the dead letter if it was set aside."""

    parts: tuple[tuple[PartName, PartOutcome], ...] = ()
    dead_letter: tuple[DeadLetterCode, str] | None = None


class Feedback(NamedTuple):
    """A feedback event as the core sees it; tokens come in pairs."""

    reward: float | None = None
    cost_nanos: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    failed: bool = False
    model: str | None = None

    @property
    def parts(self) -> tuple[PartName, ...]:
        """The parts that this feedback speaks of; a failure speaks of money."""
        present: list[PartName] = []
        if self.cost_nanos is not None or self.failed:
            present.append("money")
        if self.reward is not None:
            present.append("reward")
        if self.output_tokens is not None:
            present.append("tokens")
        return tuple(present)


class Parked(NamedTuple):
    """An early or refused feedback record as it was received, with its broker time in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Refused(NamedTuple):
    """A parked record that became a dead letter; kept so that a replay can send it again."""

    record: Parked
    code: DeadLetterCode
    message: str


class Choice(NamedTuple):
    """What a decision leaves behind for its feedback. Money in nano-dollars, prices in USD per million tokens."""

    model: str
    context: FloatArray
    fingerprint: str
    reservation: int
    expected: int
    predicted: int
    input_tokens: int
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    request_usd: float
    bounded: bool

    @property
    def arm(self) -> Arm:
        """The chosen model at the prices of the decision."""
        return _priced(self.model, self.input_usd_per_mtok, self.output_usd_per_mtok, self.request_usd)


@lru_cache(maxsize=1_024)  # prices change rarely, and every feedback asks
def _priced(model: str, input_usd_per_mtok: float, output_usd_per_mtok: float, request_usd: float) -> Arm:
    return Arm(model, input_usd_per_mtok, output_usd_per_mtok, request_usd)


class Pending(NamedTuple):
    """One query of one user. `decision` None: only early feedback is known.

    `overflow` is the range of feedback offsets that were refused because the
    parking places were taken; `denied` are the last offsets refused for an unknown
    model. Both exist so that a replay refuses the same records again. `window` is the
    start of its budget window, `window_s` that window's length if it is not the present one.
    """

    decision: bytes | None = None
    offset: int = -1
    window: int = 0
    window_s: int = 0
    choice: Choice | None = None
    money: Money | None = None
    reward: Reward | None = None
    tokens: Tokens | None = None
    guess: Tokens | None = None
    parked: tuple[Parked, ...] = ()
    refused: tuple[Refused, ...] = ()
    overflow: tuple[int, int] | None = None
    denied: tuple[int, ...] = ()
    changed_ms: int = 0

    @property
    def event(self) -> Event:
        """The query event under which it was decided."""
        return Event(Source.QUERY, self.offset)

    @property
    def reservation(self) -> int:
        """Nano-dollars that the decision reserved; 0 if rejected."""
        return 0 if self.choice is None else self.choice.reservation

    @property
    def expected(self) -> int:
        """Nano-dollars that the decision expects to cost; 0 if rejected."""
        return 0 if self.choice is None else self.choice.expected

    @property
    def last_feedback(self) -> int:
        """The highest feedback offset that this record depends on; -1: none."""
        events = [part.event for part in (self.money, self.reward, self.tokens) if part is not None]
        applied = [event.offset for event in events if event.source is Source.FEEDBACK]
        held = [record.offset for record in self.parked] + [entry.record.offset for entry in self.refused]
        return max([*applied, *held, *self.denied, self.overflow[1] if self.overflow else -1], default=-1)


def park(pending: Pending, record: Parked, feedback: Feedback) -> tuple[Pending, Outcome]:
    """Keep a feedback whose decision does not exist yet; the ninth is refused at once."""
    if any(held.offset == record.offset for held in pending.parked):
        return pending, _replayed(feedback)
    for entry in pending.refused:
        if entry.record.offset == record.offset:
            return pending, _refusal(feedback, entry.code, entry.message)
    if len(pending.parked) < MAX_PARKED and not _overflowed(pending, record.offset):
        held = pending._replace(parked=(*pending.parked, record), changed_ms=record.timestamp)
        return held, Outcome(tuple((part, "parked") for part in feedback.parts))
    first, last = pending.overflow or (record.offset, record.offset)
    known = pending._replace(overflow=(min(first, record.offset), max(last, record.offset)))
    return known, _crowded_out(feedback)


def decide(
    pending: Pending,
    *,
    decision: bytes,
    event: Event,
    window: int,
    choice: Choice | None,
    timestamp: int,
    parse: Callable[[bytes], Feedback],
    lookup: ModelLookup,
) -> tuple[Pending, tuple[Outcome, ...]]:
    """Record the decision and apply what was parked, in feedback order, under the query's event.

    `choice` None: the query was rejected. `timestamp` is the broker time in ms.
    """
    decided = pending._replace(
        decision=decision,
        offset=event.offset,
        window=window,
        window_s=0,
        choice=choice,
        parked=(),
        changed_ms=timestamp,
    )
    outcomes: list[Outcome] = []
    for record in pending.parked:
        decided, outcome = _apply(decided, parse(record.value), event, lookup)
        if outcome.dead_letter is not None:
            entry = Refused(record, *outcome.dead_letter)
            decided = decided._replace(refused=(*decided.refused, entry))
        outcomes.append(outcome)
    return decided, tuple(outcomes)


def feed(
    pending: Pending, feedback: Feedback, event: Event, timestamp: int, lookup: ModelLookup
) -> tuple[Pending, Outcome]:
    """Apply a feedback to a decided query; every part counts once, the first valid one wins."""
    if any(part is not None and part.event == event for part in (pending.money, pending.reward, pending.tokens)):
        return pending, _replayed(feedback)  # whatever the catalog says of the model by now
    for entry in pending.refused:
        if entry.record.offset == event.offset:
            return pending, _refusal(feedback, entry.code, entry.message)
    if _overflowed(pending, event.offset):
        return pending, _crowded_out(feedback)
    if event.offset in pending.denied:
        return pending, _unknown_model(feedback)
    fed, outcome = _apply(pending, feedback, event, lookup)
    if outcome.dead_letter is not None and outcome.dead_letter[0] is DeadLetterCode.UNKNOWN_MODEL:
        fed = fed._replace(denied=(*fed.denied, event.offset)[-MAX_DENIED:])
    return (fed._replace(changed_ms=timestamp) if fed is not pending else pending), outcome


def expire_parked(pending: Pending, before_ms: int) -> Pending:
    """Early feedback received until `before_ms`, whose query never came: it is refused as `unknown_query`."""
    message = "no query with this id came while the feedback waited"
    late = [record for record in pending.parked if record.timestamp <= before_ms]
    refused = tuple(Refused(record, DeadLetterCode.UNKNOWN_QUERY, message) for record in late)
    waiting = tuple(record for record in pending.parked if record.timestamp > before_ms)
    return pending._replace(parked=waiting, refused=(*pending.refused, *refused))


def lessons(pending: Pending, event: Event) -> Iterable[tuple[str, Lesson]]:
    """What one event teaches about which model, derived from the arbiter alone."""
    choice = pending.choice
    if choice is None:
        return
    learned = (pending.money, pending.reward, pending.tokens, pending.guess)
    models = {part.model: None for part in learned if part is not None and part.event == event and part.model}
    for model in models:
        yield model, _lesson(pending, choice, event, model)


def _lesson(pending: Pending, choice: Choice, event: Event, model: str) -> Lesson:
    money, reward = _new(pending.money, event, model), _new(pending.reward, event, model)
    tokens, guess = _new(pending.tokens, event, model), _new(pending.guess, event, model)
    count = tokens or guess
    replaced = pending.guess if tokens and not guess and pending.guess and pending.guess.model == model else None
    comparable = money is not None and not money.failed and model == choice.model
    return Lesson(
        context=choice.context,
        reward=None if reward is None else reward.value,
        output_tokens=None if count is None else count.number,
        guessed_tokens=None if replaced is None else replaced.number,
        cost_nanos=None if money is None else money.nanos,
        predicted_nanos=choice.predicted if comparable else None,
        failed=money is not None and money.failed,
    )


def _new(part: Part | None, event: Event, model: str) -> Part | None:
    return part if part is not None and (part.event, part.model) == (event, model) else None


def _apply(pending: Pending, feedback: Feedback, event: Event, lookup: ModelLookup) -> tuple[Pending, Outcome]:
    choice = pending.choice
    if choice is None:
        return pending, _refusal(feedback, DeadLetterCode.NOT_ROUTED, "the query was rejected, no model ran")
    ran = choice.arm if feedback.model in (None, choice.model) else lookup(feedback.model or "")
    if ran is None:
        return _apply_unknown(pending, feedback, event)
    done: PartOutcome = "applied" if ran.model == choice.model else "substituted"
    parts: list[tuple[PartName, PartOutcome]] = []
    nanos = _amount(feedback, ran)
    # Tokens after the money imply no second payment: only an explicit cost is a duplicate.
    if nanos is not None and (pending.money is None or "money" in feedback.parts):
        parts.append(("money", done if pending.money is None else "duplicate"))
    if nanos is not None and pending.money is None:
        pending = _settle(pending, choice, feedback, Money(nanos, event, ran.model, feedback.failed), ran)
    if feedback.reward is not None:
        parts.append(("reward", done if pending.reward is None else "duplicate"))
        if pending.reward is None:
            pending = pending._replace(reward=Reward(feedback.reward, event, ran.model))
    if feedback.output_tokens is not None:
        parts.append(("tokens", done if pending.tokens is None else "duplicate"))
        if pending.tokens is None:
            pending = pending._replace(tokens=Tokens(feedback.output_tokens, event, ran.model))
    return pending, Outcome(tuple(parts))


def _settle(pending: Pending, choice: Choice, feedback: Feedback, money: Money, ran: Arm) -> Pending:
    settled = pending._replace(money=money)
    guess = _infer_tokens(choice, ran, money.nanos)
    if guess is None or money.failed or feedback.output_tokens is not None or pending.tokens is not None:
        return settled
    return settled._replace(guess=Tokens(guess, money.event, ran.model))


def _apply_unknown(pending: Pending, feedback: Feedback, event: Event) -> tuple[Pending, Outcome]:
    if feedback.cost_nanos is None:
        return pending, _unknown_model(feedback)
    if pending.money is not None:
        return pending, Outcome((("money", "duplicate"),))
    money = Money(feedback.cost_nanos, event, None, feedback.failed)
    return pending._replace(money=money), Outcome((("money", "unknown_model"),))


def _amount(feedback: Feedback, ran: Arm) -> int | None:
    if feedback.cost_nanos is not None:
        return feedback.cost_nanos
    if feedback.failed:
        return 0
    if feedback.input_tokens is None or feedback.output_tokens is None:
        return None
    return to_nanos(ran.price_usd(feedback.input_tokens, feedback.output_tokens))


def _infer_tokens(choice: Choice, ran: Arm, nanos: int) -> int | None:
    per_token = ran.output_usd_per_mtok * USD_PER_MTOK
    if per_token <= 0:
        return None
    count = (nanos / NANOS_PER_USD - ran.price_usd(choice.input_tokens, 0)) / per_token
    return round(count) if 0.5 < count <= _MOST_TOKENS else None


def _overflowed(pending: Pending, offset: int) -> bool:
    return pending.overflow is not None and pending.overflow[0] <= offset <= pending.overflow[1]


def _replayed(feedback: Feedback) -> Outcome:
    return Outcome(tuple((part, "replayed") for part in feedback.parts))


def _crowded_out(feedback: Feedback) -> Outcome:
    message = f"{MAX_PARKED} feedback records waited for this query already"
    return _refusal(feedback, DeadLetterCode.UNKNOWN_QUERY, message)


def _unknown_model(feedback: Feedback) -> Outcome:
    message = f"model {feedback.model!r} is not known here and the feedback carries no cost_usd"
    return _refusal(feedback, DeadLetterCode.UNKNOWN_MODEL, message)


def _refusal(feedback: Feedback, code: DeadLetterCode, message: str) -> Outcome:
    outcome: PartOutcome = "unknown_model" if code is DeadLetterCode.UNKNOWN_MODEL else "refused"
    return Outcome(tuple((part, outcome) for part in feedback.parts), (code, message))
