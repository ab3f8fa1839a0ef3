"""A verdict of "exact" says something only if a wrong result is noticed: each test changes a record of a real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.faults import Blow
from tests.chaos.oracle import violations
from tests.chaos.run import Result, recovery
from worker import codecs
from worker.core.fence import Event, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Parked, Pending
from worker.core.shard import Shard
from worker.core.verdict import History
from worker.kafka.compacted import Record

Log = list[Record]


def _last(log: Log, suits: Callable[[bytes], bool] = lambda _: True) -> int:
    """Where the last record of some key lies, the one that counts, with a value that suits."""
    met: set[bytes | None] = set()
    for place in range(len(log) - 1, -1, -1):
        if log[place].key not in met and suits(log[place].value or b""):
            return place
        met.add(log[place].key)
    raise AssertionError("no record suits")


def _rewritten(log: Log, suits: Callable[[bytes], bool]) -> tuple[bytes, Record]:
    """A key that was written more than once, and a record of it whose value differs from the last one."""
    last = {record.key: record.value for record in log}
    for record in log:
        if record.key and record.value and suits(record.value) and last[record.key] not in (None, record.value):
            return record.key, record
    raise AssertionError("nothing was written twice")


def _put(log: Log, place: int, value: bytes) -> None:
    log[place] = replace(log[place], value=value)


def _repack(log: Log, change: Callable[[Pending], Pending], suits: Callable[[Pending], Any]) -> None:
    place = _last(log, lambda value: bool(value) and bool(suits(codecs.unpack_pending(value))))
    _put(log, place, codecs.pack_pending(change(codecs.unpack_pending(log[place].value or b""))))


def _respend(log: Log, change: Callable[[Spend], Spend], suits: Callable[[Spend], Any] = lambda _: True) -> None:
    place = _last(log, lambda value: bool(suits(codecs.unpack_spend(value))))
    _put(log, place, codecs.pack_spend(change(codecs.unpack_spend(log[place].value or b""))))


def _reshard(log: Log, change: Callable[[Shard], None]) -> None:
    place = _last(log)
    shard = Shard.unpack(log[place].value or b"")
    change(shard)
    _put(log, place, shard.pack())


def _decided(record: Record) -> dict[str, Any]:
    decision: dict[str, Any] = json.loads(record.value or b"")
    return decision


class TestDecisions:
    def test_missing(self, calm: Result) -> None:
        """A query without decision is noticed."""
        evidence = calm.evidence.copy()
        lost = _decided(evidence.decisions[0])["query_id"]
        evidence.decisions = [each for each in evidence.decisions if _decided(each)["query_id"] != lost]
        _noticed(evidence, "never decided")

    def test_repeat_unanswered(self, calm: Result) -> None:
        """A repeated query that got no answer of its own is noticed, though its first record got one."""
        evidence = calm.evidence.copy()
        seen: set[str] = set()
        for record in evidence.decisions:
            query_id = _decided(record)["query_id"]
            if query_id in seen:
                evidence.decisions.remove(record)
                break
            seen.add(query_id)
        _noticed(evidence, "no decision answers")

    def test_two_ways(self, calm: Result) -> None:
        """A second copy that differs in one number is noticed."""
        evidence = calm.evidence.copy()
        changed = json.dumps({**_decided(evidence.decisions[5]), "uncertainty": 0.25}).encode()
        evidence.decisions.append(replace(evidence.decisions[5], value=changed))
        _noticed(evidence, "was decided in 2 ways")

    def test_altered(self, calm: Result) -> None:
        """A decision that is not the one in the state is noticed, even if all copies agree."""
        evidence = calm.evidence.copy()
        query_id = _decided(evidence.decisions[5])["query_id"]
        for place, record in enumerate(evidence.decisions):
            if _decided(record)["query_id"] == query_id:
                _put(evidence.decisions, place, (record.value or b"") + b" ")
        _noticed(evidence, "hold different decisions")

    def test_of_nobody(self, calm: Result) -> None:
        """A decision that nobody asked for is noticed."""
        evidence = calm.evidence.copy()
        changed = json.dumps({**_decided(evidence.decisions[5]), "query_id": "nobody"}).encode()
        evidence.decisions.append(replace(evidence.decisions[5], value=changed))
        _noticed(evidence, "though nobody asked")

    def test_elsewhere(self, calm: Result) -> None:
        """A decision on another partition than its query is noticed."""
        evidence = calm.evidence.copy()
        record = evidence.decisions[5]
        evidence.decisions[5] = replace(record, partition=(record.partition + 1) % evidence.partitions)
        _noticed(evidence, "another partition")

    def test_overdrawn(self, calm: Result) -> None:
        """A decision above the limit is noticed where `worst_case` promises that there is none."""
        evidence = calm.evidence.copy()
        evidence.settings = evidence.settings.model_copy(update={"reserve": "worst_case"})
        place = next(
            place for place, record in enumerate(evidence.decisions)
            if _decided(record)["model"] and _decided(record)["budget"]
        )  # fmt: skip
        decision = _decided(evidence.decisions[place])
        decision["budget"]["remaining_usd"] = -1.0
        _put(evidence.decisions, place, json.dumps(decision).encode())
        _noticed(evidence, "above the limit")


class TestArbiter:
    @pytest.mark.parametrize("part", ["money", "reward", "tokens"])
    def test_other_feedback(self, calm: Result, part: str) -> None:
        """A part that was taken from another feedback record than the first is noticed."""

        def later(held: Pending) -> Pending:
            taken = getattr(held, part)
            return held._replace(**{part: taken._replace(event=Event(Source.FEEDBACK, taken.event.offset + 1))})

        evidence = calm.evidence.copy()
        _repack(evidence.pending, later, lambda held: getattr(held, part))
        _noticed(evidence, f": {part} in pending is")

    def test_part_lost(self, calm: Result) -> None:
        """A reward that the state has forgotten is noticed."""
        evidence = calm.evidence.copy()
        _repack(evidence.pending, lambda held: held._replace(reward=None), lambda held: held.reward)
        _noticed(evidence, ": reward in pending is None")

    def test_one_nano(self, calm: Result) -> None:
        """One nano-dollar too much is noticed."""

        def dearer(held: Pending) -> Pending:
            assert held.money is not None
            return held._replace(money=held.money._replace(nanos=held.money.nanos + 1))

        evidence = calm.evidence.copy()
        _repack(evidence.pending, dearer, lambda held: held.money)
        _noticed(evidence, ": money in pending is")

    def test_guess(self, calm: Result) -> None:
        """A wrong guess of the tokens behind a cost is noticed."""

        def other(held: Pending) -> Pending:
            assert held.guess is not None
            return held._replace(guess=held.guess._replace(number=held.guess.number + 1))

        evidence = calm.evidence.copy()
        _repack(evidence.pending, other, lambda held: held.guess)
        _noticed(evidence, ": guessed tokens in pending is")

    def test_unknown_query(self, calm: Result) -> None:
        """A decided query that the state does not know is noticed."""
        evidence = calm.evidence.copy()
        place = _last(evidence.pending, lambda value: bool(value) and codecs.unpack_pending(value).decision is not None)
        key = evidence.pending[place].key
        evidence.pending = [each for each in evidence.pending if each.key != key]
        _noticed(evidence, "pending does not know")

    def test_stale(self, calm: Result) -> None:
        """A record over which an older one was written again is noticed."""
        evidence = calm.evidence.copy()
        key, older = _rewritten(evidence.pending, lambda value: codecs.unpack_pending(value).decision is not None)
        evidence.pending.append(older)
        _noticed(evidence, str(codecs.unpack_pending_key(key)))

    def test_parked(self, calm: Result) -> None:
        """Feedback that still waits though its query was decided is noticed."""
        evidence = calm.evidence.copy()
        parked = Parked(3, 0, b"user-0", b"{}")
        _repack(evidence.pending, lambda held: held._replace(parked=(parked,)), lambda held: held.decision)
        _noticed(evidence, "parked for ever")


class TestSpend:
    @pytest.mark.parametrize("name", ["settled", "reserved", "expected", "queries"])
    def test_one_more(self, calm: Result, name: str) -> None:
        """A sum of a user's window that is one too high is noticed."""
        evidence = calm.evidence.copy()
        _respend(evidence.spend, lambda spend: spend._replace(**{name: getattr(spend, name) + 1}))
        _noticed(evidence, f": {name} is")

    def test_stale(self, calm: Result) -> None:
        """A window over which an older record was written again is noticed."""
        evidence = calm.evidence.copy()
        key, older = _rewritten(evidence.spend, lambda _: True)
        evidence.spend.append(older)
        _noticed(evidence, f"spend of {codecs.unpack_spend_key(key)}")

    def test_other_window(self, calm: Result) -> None:
        """Money in another window than its query's is noticed."""
        evidence = calm.evidence.copy()
        place = _last(evidence.spend)
        user, (start, end) = json.loads(evidence.spend[place].key or b"")
        evidence.spend[place] = replace(
            evidence.spend[place], key=json.dumps([user, [start + 1000, end + 1000]]).encode()
        )
        _noticed(evidence, "spend of")

    def test_history(self, calm: Result) -> None:
        """A rate history that was not carried from the window before is noticed."""
        evidence = calm.evidence.copy()
        _respend(
            evidence.spend, lambda spend: spend._replace(history=History()), lambda spend: spend.history.queries > 0
        )
        _noticed(evidence, "history is")


class TestArms:
    def test_reward_twice(self, calm: Result) -> None:
        """A reward that was learned twice is noticed."""
        evidence = calm.evidence.copy()
        _reshard(evidence.arms, lambda shard: shard.statistics.reward.learn(shard.statistics.reward.b * 0, 0.5))
        _noticed(evidence, "reward.n is")

    def test_context(self, calm: Result) -> None:
        """A reward that was learned for another context is noticed, though counts and sums agree."""
        evidence = calm.evidence.copy()

        def turn(shard: Shard) -> None:
            shard.statistics.reward.b[0] += 1e-6

        _reshard(evidence.arms, turn)
        _noticed(evidence, "reward.b is")

    @pytest.mark.parametrize("name", ["output_tokens", "costs_settled", "errors", "cost_true_nanos"])
    def test_one_more(self, calm: Result, name: str) -> None:
        """A count of a shard that is one too high is noticed."""
        evidence = calm.evidence.copy()
        _reshard(evidence.arms, lambda shard: setattr(shard.statistics, name, getattr(shard.statistics, name) + 1))
        _noticed(evidence, f"{name} is")

    def test_missing(self, calm: Result) -> None:
        """A shard that is lost is noticed."""
        evidence = calm.evidence.copy()
        key = next(each.key for each in evidence.arms if each.value)  # the first records are claims
        evidence.arms = [each for each in evidence.arms if each.key != key]
        _noticed(evidence, "is missing")


class TestDeadLetters:
    def test_missing(self, calm: Result) -> None:
        """A bad record that vanished is noticed."""
        evidence = calm.evidence.copy()
        lost = evidence.letters[0].headers
        evidence.letters = [each for each in evidence.letters if each.headers != lost]
        _noticed(evidence, "say [], must be")

    def test_extra(self, calm: Result) -> None:
        """A good record that was set aside is noticed."""
        evidence = calm.evidence.copy()
        _reheader(evidence.letters, "pilot.source.offset", b"1000000")
        _noticed(evidence, "must be None")

    def test_wrong_code(self, calm: Result) -> None:
        """A record that was set aside for another reason than its own is noticed."""
        evidence = calm.evidence.copy()
        _reheader(evidence.letters, "pilot.error.code", b"unknown")
        _noticed(evidence, "say ['unknown']")

    def test_changed(self, calm: Result) -> None:
        """A dead letter whose value is not the original is noticed."""
        evidence = calm.evidence.copy()
        _put(evidence.letters, 0, b"{}")
        _noticed(evidence, "not the record that it came from")


def test_lag(calm: Result) -> None:
    """A group that did not commit to the end is noticed."""
    evidence = calm.evidence.copy()
    place = next(place for place, end in evidence.ends.items() if end)
    evidence.committed[place] -= 1
    _noticed(evidence, "committed")


def test_calm(calm: Result) -> None:
    """Without any fault two workers leave exactly what the sources demand, and end with exit code 0."""
    assert calm.violations == []
    assert calm.notes == []
    assert set(calm.exits) == {0}


def test_client_shows_everything(calm: Result) -> None:
    """The client sends every kind of record that the oracle judges, so that an exact run says something."""
    kinds = {
        "new", "repeated", "early", "at once", "after the decision", "crowd", "never asked", "bad queries",
        "bad feedback", "in a transaction", "aborted",
    }  # fmt: skip
    assert {kind for kind, count in calm.sent.items() if count} == kinds
    assert any(b'"text"' in (query.value or b"") for query in calm.evidence.queries)
    codes = {dict(letter.headers)["pilot.error.code"].decode() for letter in calm.evidence.letters}
    assert codes == {
        "invalid_json", "invalid_event", "invalid_key", "wrong_partition", "invalid_embedding", "unknown_query",
        "unknown_model", "not_routed",
    }  # fmt: skip


def test_untouched(calm: Result) -> None:
    """What the tests above noticed was their own doing: without it there is nothing to notice."""
    assert violations(calm.evidence.copy()) == []


def test_time_without_a_broker_is_told_apart(calm: Result) -> None:
    """Of the time until routing went on, what other faults took the broker for counts as not the workers' own."""
    asked = sorted(record.timestamp for record in calm.evidence.queries)[len(calm.evidence.queries) // 2] / 1000
    blow = Blow("kill", "worker-1", asked - 5.0)
    alone = recovery(calm.evidence, blow, [blow])
    assert alone is not None
    assert (alone.without_broker, alone.own) == (0.0, alone.seconds)
    end = blow.at + alone.seconds
    gone = [Blow("outage", "broker", blow.at - 1.0, blow.at + 0.001), Blow("outage", "broker", end - 0.002, end + 9.0)]
    found = recovery(calm.evidence, blow, [blow, *gone])
    assert found is not None
    assert found.seconds == alone.seconds
    assert found.without_broker == pytest.approx(0.003, abs=1e-5)


def _reheader(log: Log, name: str, value: bytes) -> None:
    headers = tuple((each, value if each == name else kept) for each, kept in log[0].headers)
    log[0] = replace(log[0], headers=headers)


def _noticed(evidence: Evidence, words: str) -> None:
    found = violations(evidence)
    assert any(words in line for line in found), found[:5]
