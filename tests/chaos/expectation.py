"""What the two source topics demand, whatever the interleaving and the crashes: written from the contract.

Reads raw JSON and the client's own labels, never the worker's parser or state machine. Only
where the contract leaves the outcome to timing (how long early feedback waits) does it
ask the evidence which outcome was taken.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.chaos.events import MODELS
from tests.chaos.evidence import ASK, EXPECTED_CODE, Evidence
from worker import codecs
from worker.core.lifecycle import Pending
from worker.kafka.compacted import Record

Key = tuple[str, str]
Place = tuple[str, int, int]
_NANOS = 1_000_000_000
_CLOCK_SLACK_MS = 100  # a dead letter is dated by the worker, its source by the broker


@dataclass(slots=True)
class Case:
    """One query: where it was decided, who asked, and which parts of its feedback count.

    Parts are (amount, feedback offset, model that ran); money of an unknown model has None.
    """

    key: Key
    partition: int
    offset: int
    window: int
    asks: list[Record]
    status: str | None = None
    model: str | None = None
    money: tuple[int, int, str | None] | None = None
    failed: bool = False
    reward: tuple[float, int, str] | None = None
    tokens: tuple[int, int, str] | None = None
    guess: tuple[int, int, str] | None = None


@dataclass(slots=True)
class Expectation:
    """All queries, and the dead letters that must exist; `parked` is early feedback that may still wait."""

    cases: dict[Key, Case] = field(default_factory=dict)
    letters: dict[Place, str] = field(default_factory=dict)
    parked: dict[Key, set[int]] = field(default_factory=lambda: defaultdict(set))


@dataclass(slots=True)
class Reading:
    """The workers' records, decoded: last value of each key, decisions and dead letters by what they answer."""

    pending: dict[Key, Pending]
    decisions: dict[Key, list[Record]]
    letters: dict[Place, list[Record]]


def read(evidence: Evidence) -> Reading:
    last = {record.key: record.value for record in evidence.pending}
    pending = {codecs.unpack_pending_key(key): codecs.unpack_pending(v) for key, v in last.items() if key and v}
    decisions: dict[Key, list[Record]] = defaultdict(list)
    for record in evidence.decisions:
        event = orjson.loads(record.value or b"{}")
        decisions[event["user_id"], event["query_id"]].append(record)
    letters: dict[Place, list[Record]] = defaultdict(list)
    for record in evidence.letters:
        letters[source_of(record)].append(record)
    return Reading(pending, decisions, letters)


def source_of(letter: Record) -> Place:
    said = dict(letter.headers)
    topic = said["pilot.source.topic"].decode()
    return topic, int(said["pilot.source.partition"]), int(said["pilot.source.offset"])


def derive(evidence: Evidence, reading: Reading) -> Expectation:
    wanted = Expectation()
    for record in _in_order(evidence.queries):
        _query(evidence, wanted, record)
    for key, case in wanted.cases.items():
        if reading.decisions[key]:
            decision = orjson.loads(reading.decisions[key][0].value or b"{}")
            case.status, case.model = decision["status"], decision["model"]
    for record in _in_order(evidence.feedback):
        _feedback(evidence, wanted, reading, record)
    return wanted


def _in_order(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _bad(evidence: Evidence, wanted: Expectation, topic: str, record: Record) -> bool:
    code = dict(record.headers).get(EXPECTED_CODE)
    if code is not None:
        wanted.letters[evidence.settings.topic(topic), record.partition, record.offset] = code.decode()
    return code is not None


def _query(evidence: Evidence, wanted: Expectation, record: Record) -> None:
    if _bad(evidence, wanted, "queries", record):
        return
    event = orjson.loads(record.value or b"")
    key = event["user_id"], event["query_id"]
    length = evidence.settings.budget_window_s
    window = record.timestamp // 1000 // length * length
    case = wanted.cases.setdefault(key, Case(key, record.partition, record.offset, window, []))
    assert ASK in dict(record.headers)
    case.asks.append(record)


def _feedback(evidence: Evidence, wanted: Expectation, reading: Reading, record: Record) -> None:
    if _bad(evidence, wanted, "feedback", record):
        return
    event = orjson.loads(record.value or b"")
    key = event["user_id"], event["query_id"]
    place = (evidence.settings.topic("feedback"), record.partition, record.offset)
    case, held = wanted.cases.get(key), reading.pending.get(key, Pending())
    if _waited_in_vain(evidence, held, record, reading.letters.get(place, [])):
        wanted.letters[place] = "unknown_query"
    elif case is None:
        wanted.parked[key].add(record.offset)
    elif case.status is not None:
        code = _apply(case, held, event, record.offset)
        if code:
            wanted.letters[place] = code


def _waited_in_vain(evidence: Evidence, held: Pending, record: Record, letters: list[Record]) -> bool:
    """Which of a crowd found a parking place, and who waited too long, depends on when the query was decided."""
    crowded = held.overflow is not None and held.overflow[0] <= record.offset <= held.overflow[1]
    patience_ms = evidence.settings.park_s * 1000 - _CLOCK_SLACK_MS
    waited = any(letter.timestamp - record.timestamp >= patience_ms for letter in letters)
    given_up = any(dict(letter.headers)["pilot.error.code"] == b"unknown_query" for letter in letters)
    return crowded or (waited and given_up)


def _apply(case: Case, held: Pending, event: dict[str, Any], offset: int) -> str:
    """The first valid part of a kind counts, in the order of the log; the code if the record is refused."""
    if case.status == "rejected":
        return "not_routed"
    ran, failed = event.get("model", case.model), event.get("status", "ok") != "ok"
    known = ran in MODELS
    if not known and "cost_usd" not in event:
        return "unknown_model"
    nanos = _nanos(event, ran, failed)
    if nanos is not None and case.money is None:
        case.money, case.failed = (nanos, offset, ran if known else None), failed
        if known and not failed and case.tokens is None and "output_tokens" not in event:
            case.guess = _guess(held, ran, nanos, offset)
    if known and "reward" in event and case.reward is None:
        case.reward = event["reward"], offset, ran
    if known and "output_tokens" in event and case.tokens is None:
        case.tokens = event["output_tokens"], offset, ran
    return ""


def _nanos(event: dict[str, Any], ran: str, failed: bool) -> int | None:
    if "cost_usd" in event:
        return round(event["cost_usd"] * _NANOS)
    if failed:
        return 0
    if "output_tokens" not in event:
        return None
    return round(_price_usd(ran, event["input_tokens"], event["output_tokens"]) * _NANOS)


def _guess(held: Pending, ran: str, nanos: int, offset: int) -> tuple[int, int, str] | None:
    """Output tokens inferred from money, at the prices of the model that ran."""
    asked = 0 if held.choice is None else held.choice.input_tokens
    per_token = float(MODELS[ran]["output_usd_per_mtok"]) * 1e-6
    count = round((nanos / _NANOS - _price_usd(ran, asked, 0)) / per_token)
    return (count, offset, ran) if count >= 1 else None


def _price_usd(model: str, input_tokens: int, output_tokens: int) -> float:
    prices = MODELS[model]
    per_mtok = prices["input_usd_per_mtok"] * input_tokens + prices["output_usd_per_mtok"] * output_tokens
    return float(prices.get("request_usd", 0.0) + per_mtok * 1e-6)
