"""What must hold at the end of a world, whatever the interleaving and the crashes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

from tests.simulation.machine import Broker, catalog
from tests.simulation.world import WINDOW_S, World
from worker import codecs
from worker.core.fence import Source
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.money import to_nanos

Key = tuple[str, str]


def violations(world: World, broker: Broker) -> list[str]:
    """Every broken invariant, in words; empty if the world is exact."""
    found: list[str] = []
    decisions = _decisions(broker, found)
    pending = {codecs.unpack_pending_key(k): codecs.unpack_pending(v) for k, v in dict(broker.logs["pending"]).items()}
    expected, letters = _expect(world, decisions, pending, found)
    _check_pending(expected, pending, decisions, found)
    _check_spend(expected, broker, found)
    _check_arms(expected, pending, broker, found)
    _check_letters(letters, broker, found)
    return found


def _decisions(broker: Broker, found: list[str]) -> dict[Key, dict[str, Any]]:
    copies: dict[Key, set[bytes]] = defaultdict(set)
    for topic, output in broker.logs["out"]:
        if topic == "sim.decisions":
            decision = json.loads(output.value)
            copies[decision["user_id"], decision["query_id"]].add(output.value)
    found += [f"{key} was decided in {len(values)} ways" for key, values in copies.items() if len(values) > 1]
    return {key: json.loads(next(iter(values))) for key, values in copies.items()}


def _expect(
    world: World, decisions: dict[Key, dict[str, Any]], pending: dict[Key, Pending], found: list[str]
) -> tuple[dict[Key, dict[str, Any]], dict[int, str]]:
    queries: dict[Key, dict[str, Any]] = {}
    letters: dict[int, str] = {}
    for record in world.queries:
        event = json.loads(record.value or b"")
        key = (event["user_id"], event["query_id"])
        queries.setdefault(key, {"offset": record.offset, "window": record.timestamp // 1000 // WINDOW_S * WINDOW_S})
        if key not in decisions:
            found.append(f"{key} was never decided")
    for record in world.feedback:
        event = json.loads(record.value or b"")
        key = (event["user_id"], event["query_id"])
        if key in queries and key in decisions:
            code = _apply(queries[key], decisions[key], pending.get(key, Pending()), event, record.offset)
            if code:
                letters[record.offset] = code
    return queries, letters


def _apply(query: dict[str, Any], decision: dict[str, Any], held: Pending, event: dict[str, Any], offset: int) -> str:
    """The first valid part of a kind wins, in the order of the log; the code if the record is refused."""
    if held.overflow and held.overflow[0] <= offset <= held.overflow[1]:
        return "unknown_query"  # which of a crowd found a place depends on when the query came
    if decision["model"] is None:
        return "not_routed"
    ran = event.get("model", decision["model"])
    arm = catalog().arm(ran)
    if arm is None:
        if "cost_usd" not in event:
            return "unknown_model"
        query.setdefault("money", (to_nanos(event["cost_usd"]), offset, None))
        return ""
    if "cost_usd" in event:
        query.setdefault("money", (to_nanos(event["cost_usd"]), offset, ran))
    elif event.get("status", "ok") != "ok":
        query.setdefault("money", (0, offset, ran))
    elif "output_tokens" in event:
        nanos = to_nanos(arm.price_usd(event["input_tokens"], event["output_tokens"]))
        query.setdefault("money", (nanos, offset, ran))
    if "reward" in event:
        query.setdefault("reward", (event["reward"], offset, ran))
    if "output_tokens" in event:
        query.setdefault("tokens", (event["output_tokens"], offset, ran))
    return ""


def _check_pending(
    expected: dict[Key, dict[str, Any]],
    pending: dict[Key, Pending],
    decisions: dict[Key, dict[str, Any]],
    found: list[str],
) -> None:
    for key, query in expected.items():
        held = pending.get(key)
        if held is None or held.decision is None:
            found.append(f"{key} is unknown to the arbiter")
            continue
        actual = {
            "offset": held.offset,
            "window": held.window,
            "money": held.money and (held.money.nanos, held.money.event.offset, held.money.model),
            "reward": held.reward and (held.reward.value, held.reward.event.offset, held.reward.model),
            "tokens": held.tokens and (held.tokens.count, held.tokens.event.offset, held.tokens.model),
        }
        for name, value in actual.items():
            wanted = query.get(name)
            if name in ("money", "reward", "tokens") and value and _under_query(held, name):
                value, wanted = (value[0], value[2]), wanted and (wanted[0], wanted[2])  # noqa: PLW2901
            if value != wanted:
                found.append(f"{key}: {name} is {value}, must be {wanted}")
        if held.parked:
            found.append(f"{key}: feedback is parked for ever")
        if json.loads(held.decision) != decisions.get(key):
            found.append(f"{key}: the arbiter and the topic know different decisions")


def _under_query(held: Pending, part: str) -> bool:
    event = getattr(held, part).event
    return bool(event.source is Source.QUERY)


def _check_spend(expected: dict[Key, dict[str, Any]], broker: Broker, found: list[str]) -> None:
    sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    pending = {codecs.unpack_pending_key(k): codecs.unpack_pending(v) for k, v in dict(broker.logs["pending"]).items()}
    for key, query in expected.items():
        total = sums[key[0], query["window"]]
        total[2] += 1
        if "money" in query:
            total[0] += query["money"][0]
        elif key in pending:
            total[1] += pending[key].reservation
    stored = {
        (key.user_id, key.window): codecs.unpack_spend(value) for key, value in dict(broker.logs["spend"]).items()
    }
    for place in sums.keys() | stored.keys():
        spend = stored.get(place)
        actual = spend and [spend.settled, spend.reserved, spend.queries]
        if actual != sums.get(place):
            found.append(f"spend of {place} is {actual}, must be {sums.get(place)}")
        if spend and spend.reserved == 0 and spend.expected != 0:
            found.append(f"spend of {place} expects {spend.expected} with nothing open")


def _check_arms(
    expected: dict[Key, dict[str, Any]], pending: dict[Key, Pending], broker: Broker, found: list[str]
) -> None:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for key, query in expected.items():
        if query.get("money", (0, 0, None))[2] is not None:
            sums[query["money"][2]]["costs"] += 1
        if "reward" in query:
            sums[query["reward"][2]]["rewards"] += 1
            sums[query["reward"][2]]["reward"] += query["reward"][0]
        if "tokens" in query:
            sums[query["tokens"][2]]["tokens"] += query["tokens"][0]
        guess = pending[key].guess if key in pending else None
        if guess is not None and ("tokens" not in query or query["tokens"][2] != guess.model):
            sums[guess.model]["tokens"] += guess.count
    for shard_key, value in dict(broker.logs["arms"]).items():
        statistics, wanted = Shard.unpack(value).statistics, sums.pop(ShardKey(*shard_key).model, {})
        actual = {
            "costs": statistics.costs_settled,
            "rewards": statistics.reward.n,
            "reward": statistics.reward.total,
            "tokens": statistics.output_tokens,
        }
        for name, number in actual.items():
            if not math.isclose(number, wanted.get(name, 0), abs_tol=1e-9):
                found.append(f"{shard_key}: {name} is {number}, must be {wanted.get(name, 0)}")
    found += [
        f"{model} has no shard, must have {dict(wanted)}" for model, wanted in sums.items() if any(wanted.values())
    ]


def _check_letters(letters: dict[int, str], broker: Broker, found: list[str]) -> None:
    sent: dict[int, set[str]] = defaultdict(set)
    for topic, output in broker.logs["out"]:
        if topic == "sim.dead-letters":
            headers = dict(output.headers)
            sent[int(headers["pilot.source.offset"])].add(headers["pilot.error.code"].decode())
    for offset in letters.keys() | sent.keys():
        wanted = {letters[offset]} if offset in letters else set()
        if sent.get(offset, set()) != wanted:
            found.append(f"feedback {offset}: dead letters {sent.get(offset, set())}, must be {wanted}")
