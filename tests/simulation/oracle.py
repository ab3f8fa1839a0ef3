"""What must hold at the end of a world, whatever the interleaving and the crashes.

The arbiter's changelog tells the lives of every query: from its decision to its tombstone.
A query that came again after it was forgotten has several.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.simulation.machine import CURRENT_MS, Broker, catalog
from tests.simulation.world import FEEDBACK, QUERIES, WINDOW_S, World
from worker import codecs
from worker.core.arrivals import carry
from worker.core.fence import Source
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.core.verdict import History
from worker.money import to_nanos

Key = tuple[str, str]
PARTS = ("money", "reward", "tokens")
CATALOG = catalog()


@dataclass
class QueryLife:
    """One decision from its making until it was forgotten (`ended` None: it is still known)."""

    value: bytes
    decisions: set[bytes] = field(default_factory=set)
    ended: int | None = None
    parts: dict[str, tuple[Any, int, str | None]] = field(default_factory=dict)

    @cached_property
    def held(self) -> Pending:
        return codecs.unpack_pending(self.value)

    @property
    def model(self) -> str | None:
        return None if self.held.choice is None else self.held.choice.model


class Oracle:
    """Reads what is durable at the end of a world; `found` are the broken invariants in words."""

    def __init__(self, world: World, broker: Broker) -> None:
        self.world, self.broker = world, broker
        self.found: list[str] = [f"{what} is kept for ever" for what in broker.kept]
        self.lives = _lives(broker)
        self.letters = _letters(broker)
        self.waiting = _waiting(broker)
        self.told: dict[Key, list[int]] = defaultdict(list)
        for (topic, offset), event in world.events.items():
            if topic == FEEDBACK:
                self.told[event["user_id"], event["query_id"]].append(offset)

    def violations(self) -> list[str]:
        self._check_decisions()
        self._check_forgetting()
        for key, lives in self.lives.items():
            self._check_parts(key, lives)
        self._check_letters()
        self._check_spend()
        self._check_arms()
        return self.found

    def _check_decisions(self) -> None:
        answers: dict[int, set[bytes]] = defaultdict(set)
        for topic, output in self.broker.logs["out"]:
            if topic == "sim.decisions":
                answers[int(dict(output.headers)["at"])].add(output.value)
        for record in self.world.queries:
            event, values = self.world.events[QUERIES, record.offset], answers[record.offset]
            key = (event["user_id"], event["query_id"])
            if len(values) != 1:
                self.found.append(f"query {record.offset} of {key} was answered in {len(values)} ways")
            known = {decision for life in self.lives[key] for decision in life.decisions}
            if not values <= known:
                self.found.append(f"query {record.offset} of {key}: the arbiter and the topic know different decisions")

    def _check_forgetting(self) -> None:
        """Nothing is decided again, or forgotten, before its time."""
        for key, lives in self.lives.items():
            for number, life in enumerate(lives):
                if len(life.decisions) > 1:
                    self.found.append(f"{key} was decided in {len(life.decisions)} ways")
                end = life.held.changed_ms + self.world.ttl_s * 1000
                if life.ended is not None and life.ended < end:
                    self.found.append(f"{key} was forgotten {end - life.ended} ms early")
                if (
                    number
                    and self.world.queries[life.held.offset].timestamp < self._end(lives[number - 1]) - CURRENT_MS
                ):
                    self.found.append(f"{key} was decided anew while its decision was alive")

    def _end(self, life: QueryLife) -> int:
        return life.held.changed_ms + self.world.ttl_s * 1000

    def _check_parts(self, key: Key, lives: list[QueryLife]) -> None:
        """The first valid part of a kind wins, in the order of the log; where a query had two lives, a valid one."""
        used: Counter[int] = Counter()
        for life in lives:
            held = life.held
            window = self.world.queries[held.offset].timestamp // 1000 // WINDOW_S * WINDOW_S
            if held.window != window:
                self.found.append(f"{key}: window is {held.window}, must be {window}")
            if held.parked:
                self.found.append(f"{key}: feedback is parked for ever")
            mine = [
                offset
                for offset in self.told[key]
                if self.letters[offset] != {"unknown_query"} and offset not in self.waiting
            ]
            expected: dict[str, Any] = {}
            for offset in mine:
                self._apply(expected, life, offset)
            for part in PARTS:
                actual, under_query = _actual(held, part)
                if len(lives) == 1:
                    wanted = expected.get(part)
                    ok = _same(actual, wanted, under_query)
                else:
                    wanted = "one of its feedback"
                    ok = actual is None or any(_same(actual, self._said(life, part, at), under_query) for at in mine)
                    used[0 if actual is None or under_query else actual[1]] += part == "money"
                if not ok:
                    self.found.append(f"{key}: {part} is {actual}, must be {wanted}")
                if actual is not None:
                    life.parts[part] = actual
        del used[0]
        self.found += [f"{key}: feedback {offset} settled twice" for offset, times in used.items() if times > 1]

    def _said(self, life: QueryLife, part: str, offset: int) -> tuple[Any, int, str | None] | None:
        alone: dict[str, Any] = {}
        self._apply(alone, life, offset)
        return alone.get(part)

    def _apply(self, parts: dict[str, Any], life: QueryLife, offset: int) -> str:
        """Apply one feedback to what is expected; the code if the record must be refused."""
        event, ran = self.world.events[FEEDBACK, offset], life.model
        if ran is None:
            return "not_routed"
        ran = event.get("model", ran)
        arm = CATALOG.arm(ran)
        if arm is None:
            if "cost_usd" not in event:
                return "unknown_model"
            parts.setdefault("money", (to_nanos(event["cost_usd"]), offset, None))
            return ""
        if "cost_usd" in event:
            parts.setdefault("money", (to_nanos(event["cost_usd"]), offset, ran))
        elif event.get("status", "ok") != "ok":
            parts.setdefault("money", (0, offset, ran))
        elif "output_tokens" in event:
            nanos = to_nanos(arm.price_usd(event["input_tokens"], event["output_tokens"]))
            parts.setdefault("money", (nanos, offset, ran))
        if "reward" in event:
            parts.setdefault("reward", (event["reward"], offset, ran))
        if "output_tokens" in event:
            parts.setdefault("tokens", (event["output_tokens"], offset, ran))
        return ""

    def _check_letters(self) -> None:
        for key, offsets in self.told.items():
            lives = self.lives[key]
            for offset in offsets:
                codes = self.letters[offset]
                if len(codes) > 1:
                    self.found.append(f"feedback {offset} of {key}: dead letters {sorted(codes)}")
                elif codes == {"unknown_query"} or offset in self.waiting:
                    self._check_unknown(key, offset, lives)
                elif len(lives) == 1:
                    code = self._apply({}, lives[0], offset)
                    if codes != ({code} if code else set()):
                        self.found.append(f"feedback {offset} of {key}: dead letters {codes}, must be {code!r}")
                elif not lives and not codes:
                    self.found.append(f"feedback {offset} of {key} is lost")

    def _check_unknown(self, key: Key, offset: int, lives: list[QueryLife]) -> None:
        at = self.world.feedback[offset].timestamp
        for life in lives:
            crowd = life.held.overflow
            if crowd is not None and crowd[0] <= offset <= crowd[1]:
                return  # which of a crowd found a place depends on when the query came
            asked = self.world.queries[life.held.offset].timestamp
            waited = asked - at > self.world.park_s * 1000 - CURRENT_MS
            late = at > self._end(life) - CURRENT_MS
            if not (waited or late):
                self.found.append(f"feedback {offset} of {key} found no decision, but there was one")

    def _check_spend(self) -> None:
        sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        for (user, _), lives in self.lives.items():
            for life in lives:
                total = sums[user, life.held.window]
                total[2] += 1
                if "money" in life.parts:
                    total[0] += life.parts["money"][0]
                else:
                    total[1] += life.held.reservation
        last, dropped = self._stored_spend()
        for place in sums.keys() | last.keys():
            spend = last.get(place)
            actual = spend and [spend.settled, spend.reserved, spend.queries]
            wanted = sums.get(place)
            if place in dropped and actual and wanted:  # what is settled after that is not the window's any more
                actual, wanted = actual[2:], wanted[2:]
            if actual != wanted:
                self.found.append(f"spend of {place} is {actual}, must be {wanted}")
            if spend and spend.reserved == 0 and spend.expected != 0:
                self.found.append(f"spend of {place} expects {spend.expected} with nothing open")
        self._check_histories({place: spend for place, spend in last.items() if spend.queries})

    def _check_histories(self, windows: dict[tuple[str, int], Any]) -> None:
        """A window takes over the decayed counts of the one directly before it, and of no other."""
        for (user, start), spend in windows.items():
            before = windows.get((user, start - WINDOW_S))
            wanted = History() if before is None else carry(before.history, before.queries)
            if spend.history != wanted:
                self.found.append(f"spend of {(user, start)} has {spend.history}, must have {wanted}")

    def _stored_spend(self) -> tuple[dict[tuple[str, int], Any], set[tuple[str, int]]]:
        """The last value of each window before it was dropped, and which were dropped."""
        last: dict[tuple[str, int], Any] = {}
        dropped: set[tuple[str, int]] = set()
        keep_ms = (WINDOW_S + max(WINDOW_S, self.world.ttl_s)) * 1000
        for (key, value), at in zip(self.broker.logs["spend"], self.broker.times["spend"], strict=True):
            place = (key.user_id, key.window)
            if value is None:
                dropped.add(place)
                if at < key.window * 1000 + keep_ms:
                    self.found.append(f"spend of {place} was dropped early")
            elif place not in dropped:
                spend = codecs.unpack_spend(value)
                if place in last and spend.queries < last[place].queries and at >= key.window * 1000 + keep_ms:
                    dropped.add(place)  # and opened again by late money within one batch
                else:
                    last[place] = spend
        return last, dropped

    def _check_arms(self) -> None:
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for life in (life for lives in self.lives.values() for life in lives):
            money, reward, tokens = (life.parts.get(part) for part in PARTS)
            if money is not None and money[2] is not None:
                sums[money[2]]["costs"] += 1
            if reward is not None:
                sums[reward[2] or ""]["rewards"] += 1
                sums[reward[2] or ""]["reward"] += reward[0]
            if tokens is not None:
                sums[tokens[2] or ""]["tokens"] += tokens[0]
            guess = life.held.guess
            if guess is not None and (tokens is None or tokens[2] != guess.model):
                sums[guess.model]["tokens"] += guess.number
        for shard_key, value in dict(self.broker.logs["arms"]).items():
            statistics, wanted = Shard.unpack(value).statistics, sums.pop(ShardKey(*shard_key).model, {})
            actual = {
                "costs": statistics.costs_settled,
                "rewards": statistics.reward.n,
                "reward": statistics.reward.total,
                "tokens": statistics.output_tokens,
            }
            for name, number in actual.items():
                if not math.isclose(number, wanted.get(name, 0), abs_tol=1e-9):
                    self.found.append(f"{shard_key}: {name} is {number}, must be {wanted.get(name, 0)}")
        self.found += [
            f"{model} has no shard, must have {dict(wanted)}" for model, wanted in sums.items() if any(wanted.values())
        ]


def violations(world: World, broker: Broker) -> list[str]:
    """Every broken invariant, in words; empty if the world is exact."""
    return Oracle(world, broker).violations()


def _lives(broker: Broker) -> defaultdict[Key, list[QueryLife]]:
    lives: defaultdict[Key, list[QueryLife]] = defaultdict(list)
    open_: dict[bytes, QueryLife] = {}
    for (key, value), at in zip(broker.logs["pending"], broker.times["pending"], strict=True):
        if value is None:
            if key in open_:
                open_.pop(key).ended = at
            continue
        decision = decision_of(value)
        if decision is None:
            continue
        life = open_.get(key)
        if life is not None and decision not in life.decisions and _offset(value) != _offset(life.value):
            life.ended = at  # forgotten and decided anew within one batch, which holds only the last value
            del open_[key]
        if key not in open_:
            open_[key] = QueryLife(value)
            lives[codecs.unpack_pending_key(key)].append(open_[key])
        open_[key].value = value
        open_[key].decisions.add(decision)
    return lives


def decision_of(value: bytes) -> bytes | None:
    """The decision of a pending record; unpacking all of it would take most of the time."""
    _, head, size = codecs._HEADER.unpack_from(value)
    begin = codecs._HEADER.size + head
    return None if size < 0 else value[begin : begin + size]


def _offset(value: bytes) -> int:
    return codecs.unpack_pending(value).offset


def _waiting(broker: Broker) -> set[int]:
    """Offsets of the feedback that at the end still waits, for its query or for its dead letter to leave."""
    last = [
        value for value in dict(broker.logs["pending"]).values() if value is not None and decision_of(value) is None
    ]
    held = [codecs.unpack_pending(value) for value in last]
    return {
        record.offset for pending in held for record in (*pending.parked, *(entry.record for entry in pending.refused))
    }


def _letters(broker: Broker) -> defaultdict[int, set[str]]:
    letters: defaultdict[int, set[str]] = defaultdict(set)
    for topic, output in broker.logs["out"]:
        if topic == "sim.dead-letters":
            headers = dict(output.headers)
            letters[int(headers["pilot.source.offset"])].add(headers["pilot.error.code"].decode())
    return letters


def _actual(held: Pending, part: str) -> tuple[tuple[Any, int, str | None] | None, bool]:
    """What the arbiter says of a part as (amount, offset, model), and whether it came with the query."""
    known: Any = getattr(held, part)
    if known is None:
        return None, False
    amount = {"money": "nanos", "reward": "value", "tokens": "number"}[part]
    return (getattr(known, amount), known.event.offset, known.model), known.event.source is Source.QUERY


def _same(
    actual: tuple[Any, int, str | None] | None, wanted: tuple[Any, int, str | None] | None, under_query: bool
) -> bool:
    if actual is None or wanted is None or not under_query:
        return actual == wanted
    return (actual[0], actual[2]) == (wanted[0], wanted[2])
