"""The verdict on a run: every broken invariant as one readable line, nothing if the run was exact.

Compares what the workers wrote with what the sources demand. Money must agree to the
nano-dollar, float sums to 1e-9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from tests.chaos.events import LIMITS_USD
from tests.chaos.evidence import ASK, Evidence
from tests.chaos.expectation import Case, Expectation, Key, Place, Reading, derive, read
from worker import codecs
from worker.core.fence import Source
from worker.core.learn import Lesson, learn
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.kafka.compacted import Record
from worker.kafka.partitioning import partition_of
from worker.money import to_usd

TOLERANCE = 1e-9
_DECAY = 0.8


def violations(evidence: Evidence) -> list[str]:
    """Every broken invariant, in words."""
    reading = read(evidence)
    wanted = derive(evidence, reading)
    return [
        *_decisions(evidence, wanted, reading),
        *_arbiter(wanted, reading),
        *_spend(evidence, wanted, reading),
        *_arms(evidence, wanted, reading),
        *_letters(evidence, wanted, reading),
        *_progress(evidence),
    ]


def _decisions(evidence: Evidence, wanted: Expectation, reading: Reading) -> Iterator[str]:
    for key in wanted.cases.keys() | reading.decisions.keys():
        case, copies = wanted.cases.get(key), reading.decisions.get(key, [])
        if case is None:
            yield f"{key} was decided though nobody asked"
        elif not copies:
            yield f"{key} was asked at {case.partition}/{case.offset} and never decided"
        else:
            yield from _answers(evidence, case, copies, reading.pending.get(key, Pending()))


def _answers(evidence: Evidence, case: Case, copies: list[Record], held: Pending) -> Iterator[str]:
    if len({copy.value for copy in copies}) > 1:
        yield f"{case.key} was decided in {len({copy.value for copy in copies})} ways"
    decision = orjson.loads(copies[0].value or b"{}")
    source = decision["source"]
    if (source["partition"], source["offset"]) != (case.partition, case.offset):
        yield f"{case.key}: source is {source}, must be {case.partition}/{case.offset}"
    if {(copy.partition, copy.key) for copy in copies} != {(case.partition, case.key[0].encode())}:
        yield f"{case.key}: a decision lies on another partition or under another key"
    answered = {dict(copy.headers).get(ASK) for copy in copies}
    for ask in case.asks:
        if dict(ask.headers)[ASK] not in answered:
            yield f"{case.key}: no decision answers the query record {ask.partition}/{ask.offset}"
    asked = orjson.loads(case.asks[0].value or b"{}")
    if decision["model"] is not None and decision["model"] not in asked.get("models", [decision["model"]]):
        yield f"{case.key}: model {decision['model']} is not among the allowed {asked['models']}"
    if decision["metadata"] != asked.get("metadata"):
        yield f"{case.key}: metadata is {decision['metadata']}, must be {asked.get('metadata')}"
    yield from _budget(case, decision["budget"])
    if evidence.settings.reserve == "worst_case" and decision["status"] == "routed":
        yield from _overdrawn(case, decision["budget"], held)


def _overdrawn(case: Case, budget: dict[str, Any] | None, held: Pending) -> Iterator[str]:
    """A decision never takes more than is left; only an early cost above its bound, settled with it, may."""
    early = held.money is not None and held.money.event.source is Source.QUERY
    beyond = max(0, held.money.nanos - held.reservation) if early and held.money is not None else 0
    if budget is not None and budget["remaining_usd"] + to_usd(beyond) < -TOLERANCE:
        yield f"{case.key}: was decided {-budget['remaining_usd']} USD above the limit"


def _budget(case: Case, budget: dict[str, Any] | None) -> Iterator[str]:
    limit = LIMITS_USD.get(case.key[0])
    if budget is None or limit is None:
        if (budget is None) != (limit is None):
            yield f"{case.key}: the budget is {budget}, the limit {limit}"
        return
    left = budget["limit_usd"] - budget["settled_usd"] - budget["reserved_usd"]
    if abs(budget["limit_usd"] - limit) > TOLERANCE or abs(left - budget["remaining_usd"]) > TOLERANCE:
        yield f"{case.key}: the budget {budget} does not add up to the limit {limit}"


def _arbiter(wanted: Expectation, reading: Reading) -> Iterator[str]:
    for key, case in wanted.cases.items():
        held = reading.pending.get(key)
        if held is None or held.decision is None:
            yield f"{key}: pending does not know the query"
            continue
        if held.parked:
            yield f"{key}: feedback {[record.offset for record in held.parked]} is parked for ever"
        if any(copy.value != held.decision for copy in reading.decisions[key][:1]):
            yield f"{key}: pending and the topic hold different decisions"
        yield from _facts(case, held)
    for key, held in reading.pending.items():
        if key not in wanted.cases:
            yield from _orphan(key, held, wanted.parked.get(key, set()))
    for key in wanted.parked.keys() - reading.pending.keys():
        yield f"{key}: feedback {sorted(wanted.parked[key])} is neither parked nor set aside"


def _facts(case: Case, held: Pending) -> Iterator[str]:
    decision, choice = orjson.loads(held.decision or b"{}"), held.choice
    pairs = {
        "query offset": (held.offset, case.offset),
        "window": (held.window, case.window),
        "model": (choice and choice.model, case.model),
        "reservation": (held.reservation, round((decision["reservation_usd"] or 0) * 1e9)),
        "expected cost": (held.expected, round((decision["estimated_cost_usd"] or 0) * 1e9)),
        "failed": (held.money is not None and held.money.failed, case.failed),
        "money": _part(case, held.money, case.money, "nanos"),
        "reward": _part(case, held.reward, case.reward, "value"),
        "tokens": _part(case, held.tokens, case.tokens, "number"),
        "guessed tokens": _part(case, held.guess, case.guess, "number"),
    }
    for name, (found, right) in pairs.items():
        if found != right:
            yield f"{case.key}: {name} in pending is {found}, must be {right}"


def _part(case: Case, held: Any, right: Any, amount: str) -> tuple[Any, Any]:
    """Amount, offset and model, found and right; early feedback is applied under the query's offset."""
    if held is None:
        return None, right
    early = held.event.source is Source.QUERY
    shown = right and (right[0], case.offset if early else right[1], right[2])
    return (getattr(held, amount), held.event.offset, held.model), shown


def _orphan(key: Key, held: Pending, waiting: set[int]) -> Iterator[str]:
    if held.decision is not None:
        yield f"{key}: pending holds a decision that nobody asked for"
    if {record.offset for record in held.parked} != waiting:
        yield f"{key}: parked is {[record.offset for record in held.parked]}, must be {sorted(waiting)}"


def _spend(evidence: Evidence, wanted: Expectation, reading: Reading) -> Iterator[str]:
    right: dict[Key | tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for key, case in wanted.cases.items():
        sums = right[key[0], case.window]
        held = reading.pending.get(key, Pending())
        if case.money is not None:
            sums[0] += case.money[0]
        else:
            sums[1] += held.reservation
            sums[2] += held.expected
        sums[3] += 1
    last = {record.key: record for record in evidence.spend}
    found = {codecs.unpack_spend_key(key or b""): record for key, record in last.items() if record.value}
    histories: dict[str, tuple[int, float, float]] = {}
    for place in sorted(right.keys() | found.keys()):
        record, sums = found.get(place), right.get(place)
        if record is None or sums is None:
            yield f"spend of {place} is {'missing' if record is None else 'there'}, its queries say {sums}"
            continue
        spend = codecs.unpack_spend(record.value or b"")
        names = ("settled", "reserved", "expected", "queries")
        for name, number in zip(names, sums, strict=True):
            if getattr(spend, name) != number:
                yield f"spend of {place}: {name} is {getattr(spend, name)}, must be {number}"
        if record.partition != partition_of(str(place[0]).encode(), evidence.partitions):
            yield f"spend of {place} lies on partition {record.partition}"
        yield from _history(evidence, place, spend, histories)


def _history(evidence: Evidence, place: Any, spend: Any, before: dict[str, tuple[int, float, float]]) -> Iterator[str]:
    """A window takes over the decayed counts of the one directly before it, and of no other."""
    user, window = place
    last, queries, exposure = before.get(user, (0, 0.0, 0.0))
    if last + evidence.settings.budget_window_s != window:
        queries = exposure = 0.0
    if not np.allclose([spend.history.queries, spend.history.exposure], [queries, exposure], rtol=0, atol=TOLERANCE):
        yield f"spend of {place}: history is {spend.history}, must be {queries} queries, {exposure} windows"
    before[user] = (window, _DECAY * (queries + spend.queries), _DECAY * (exposure + 1))


def _arms(evidence: Evidence, wanted: Expectation, reading: Reading) -> Iterator[str]:
    right: dict[ShardKey, ArmStatistics] = {}
    for key, case in wanted.cases.items():
        held = reading.pending.get(key)
        if held is None or held.choice is None:
            continue
        for model, lesson in _lessons(case, held):
            place = ShardKey(case.partition, held.choice.fingerprint, model)
            learn(right.setdefault(place, ArmStatistics.zeros(len(held.choice.context))), lesson)
    values = {ShardKey.unpack(record.key or b""): record.value for record in evidence.arms}
    last = {place: value for place, value in values.items() if value}  # claims are empty
    for place in sorted(right.keys() | last.keys()):
        if place not in right or place not in last:
            yield f"shard {place} is {'missing' if place not in last else 'there without feedback'}"
            continue
        statistics = Shard.unpack(last[place]).statistics
        for name, (found, number) in _numbers(statistics, right[place]).items():
            if not _equal(found, number):
                yield f"shard {place}: {name} is {_short(found)}, must be {_short(number)}"


def _equal(found: Any, right: Any) -> bool:
    if isinstance(right, int):
        return bool(found == right)
    return bool(np.allclose(found, right, rtol=TOLERANCE, atol=TOLERANCE))


def _lessons(case: Case, held: Pending) -> Iterator[tuple[str, Lesson]]:
    """What a query's feedback taught in all, in whatever order the parts came."""
    choice = held.choice
    assert choice is not None
    if case.money is not None and case.money[2] is not None:
        comparable = not case.failed and case.money[2] == choice.model
        predicted = choice.predicted if comparable else None
        money = Lesson(choice.context, cost_nanos=case.money[0], predicted_nanos=predicted, failed=case.failed)
        yield case.money[2], money
    if case.reward is not None:
        yield case.reward[2], Lesson(choice.context, reward=case.reward[0])
    if case.tokens is not None:
        yield case.tokens[2], Lesson(choice.context, output_tokens=case.tokens[0])
    # Reported tokens replace what was guessed for the same model.
    if case.guess is not None and (case.tokens is None or case.tokens[2] != case.guess[2]):
        yield case.guess[2], Lesson(choice.context, output_tokens=case.guess[0])


def _numbers(found: ArmStatistics, right: ArmStatistics) -> dict[str, tuple[Any, Any]]:
    plain = ("output_tokens", "costs_settled", "cost_true_nanos", "cost_predicted_nanos", "errors")
    pairs = {name: (getattr(found, name), getattr(right, name)) for name in plain}
    for moments in ("reward", "log_tokens"):
        for name in ("n", "total", "squares", "b", "A"):
            pairs[f"{moments}.{name}"] = (
                getattr(getattr(found, moments), name), getattr(getattr(right, moments), name),
            )  # fmt: skip
    return pairs


def _short(value: Any) -> str:
    return f"an array of sum {value.sum()!r}" if isinstance(value, np.ndarray) else repr(value)


def _letters(evidence: Evidence, wanted: Expectation, reading: Reading) -> Iterator[str]:
    sources: dict[Place, Record] = {}
    for topic, log in (("queries", evidence.queries), ("feedback", evidence.feedback)):
        sources.update({(evidence.settings.topic(topic), each.partition, each.offset): each for each in log})
    for place in sorted(wanted.letters.keys() | reading.letters.keys()):
        copies, code = reading.letters.get(place, []), wanted.letters.get(place)
        codes = {dict(copy.headers)["pilot.error.code"].decode() for copy in copies}
        if codes != ({code} if code else set()):
            yield f"dead letters of {place} say {sorted(codes)}, must be {code}"
        source = sources.get(place)
        for copy in copies:
            if source is not None and not _untouched(copy, source):
                yield f"a dead letter of {place} is not the record that it came from"


def _untouched(copy: Record, source: Record) -> bool:
    original = copy.headers[: len(source.headers)]
    said = dict(copy.headers)["pilot.source.timestamp"]
    return (copy.key, copy.value, original, said) == (
        source.key, source.value, source.headers, str(source.timestamp).encode(),
    )  # fmt: skip


def _progress(evidence: Evidence) -> Iterator[str]:
    for place, end in evidence.ends.items():
        if evidence.committed.get(place, 0) != end:
            yield f"{place}: committed {evidence.committed.get(place, 0)} of {end}"
