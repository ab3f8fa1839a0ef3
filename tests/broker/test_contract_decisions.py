"""Queries in, decisions out: the fields of a decision, its exclusions and reasons, and repeated queries."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from tests.broker.support import EMBEDDING, NOBODY, Deployment, Row, unique, until

ENABLED = ["large", "narrow", "small"]
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "decision.schema.json").read_text())
PUBLIC_METRICS = {
    "pilot_queries_total",
    "pilot_decisions_total",
    "pilot_decision_latency_seconds_bucket",
    "pilot_feedback_total",
    "pilot_dead_letters_total",
    "pilot_cost_usd_total",
    "pilot_baseline_cost_usd_total",
    "pilot_model_observations",
    "pilot_consumer_lag",
    "pilot_last_commit_timestamp_seconds",
}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def excluded(decision: Row) -> dict[str, str | None]:
    return {candidate["model"]: candidate["excluded"] for candidate in decision["candidates"]}


def test_routed_decision_has_every_field(standard: Deployment) -> None:
    """A routed decision lies under the user's key on the query's partition and has every field of the contract."""
    query_id, sent = standard.client.query("ann", metadata={"team": "search"})

    (record,) = standard.client.decisions(query_id)

    decision = json.loads(record.value)
    jsonschema.validate(decision, SCHEMA)
    assert sorted(decision) == sorted(SCHEMA["properties"])
    assert (record.key, record.partition) == (b"ann", sent.partition)
    assert (decision["query_id"], decision["user_id"], decision["status"]) == (query_id, "ann", "routed")
    assert decision["source"] == {"partition": sent.partition, "offset": sent.offset}
    assert decision["metadata"] == {"team": "search"}
    assert (decision["policy"], decision["propensity"], decision["reason"]) == ("pacing", 1, None)
    assert re.fullmatch(r"[0-9a-f]+:\d+", decision["policy_version"])
    assert MOMENT.fullmatch(decision["decided_at"])


def test_candidates_are_the_enabled_models(standard: Deployment) -> None:
    """Every enabled model is a candidate, and the chosen one's figures are the decision's."""
    decision = standard.client.decide("ann")

    assert [candidate["model"] for candidate in decision["candidates"]] == ENABLED
    (chosen,) = (c for c in decision["candidates"] if c["model"] == decision["model"])
    figures = ("expected_reward", "uncertainty", "estimated_cost_usd")
    assert {name: chosen[name] for name in figures} == {name: decision[name] for name in figures}
    assert chosen["excluded"] is None
    assert decision["reservation_usd"] >= decision["estimated_cost_usd"] > 0


def test_user_without_limit_has_no_budget(standard: Deployment) -> None:
    """Without a budget record for the user or for `*` the budget is null and the query is counted."""
    with standard.worker.counted("pilot_unlimited_queries_total"):
        assert standard.client.decide("ann")["budget"] is None


def test_budget_is_the_window_after_the_reservation(standard: Deployment) -> None:
    """The budget shows limit, reservation, what remains, and a window of one day that holds the query."""
    user = standard.client.user(1.0)

    decision = standard.client.decide(user)

    budget = decision["budget"]
    assert (budget["limit_usd"], budget["settled_usd"]) == (1.0, 0.0)
    assert budget["reserved_usd"] == decision["reservation_usd"]
    assert budget["remaining_usd"] == pytest.approx(1.0 - decision["reservation_usd"], abs=1e-9)
    assert budget["window_start"][10:] == budget["window_end"][10:] == "T00:00:00.000Z"
    assert budget["window_start"] <= decision["decided_at"] < budget["window_end"]
    assert budget["shadow_price"] >= 0


def test_rejected_decision_has_nulls(standard: Deployment) -> None:
    """A rejection names its reason, says nothing of a model, reserves nothing, and still shows the candidates."""
    user = standard.client.user(1.0)

    decision = standard.client.decide(user, models=[NOBODY], metadata=None)

    jsonschema.validate(decision, SCHEMA)
    assert (decision["status"], decision["reason"]) == ("rejected", "no_model")
    chosen = ("model", "expected_reward", "uncertainty", "propensity", "estimated_cost_usd", "reservation_usd")
    assert {decision[name] for name in chosen} == {None}
    assert (decision["budget"]["reserved_usd"], decision["budget"]["remaining_usd"]) == (0, 1)
    assert excluded(decision) == dict.fromkeys(ENABLED, "not_allowed")
    assert decision["metadata"] is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"models": ["small", NOBODY]}, {"large": "not_allowed", "narrow": "not_allowed", "small": None}),
        ({"requires": ["vision"]}, {"large": None, "narrow": "missing_tag", "small": "missing_tag"}),
        ({"requires": ["vision", "fast"]}, {"large": None, "narrow": "missing_tag", "small": "missing_tag"}),
        ({"input_tokens": 101}, {"large": None, "narrow": "context_window", "small": None}),
        ({"input_tokens": 100}, {"large": None, "narrow": None, "small": None}),
        ({"text": "é" * 201, "embedding": EMBEDDING}, {"large": None, "narrow": "context_window", "small": None}),
        ({"max_cost_usd": 0.005}, {"large": "max_cost", "narrow": None, "small": None}),
        ({"requires": [], "models": None, "surprise": 1}, {"large": None, "narrow": None, "small": None}),
    ],
)
def test_exclusions(standard: Deployment, fields: Row, expected: dict[str, str | None]) -> None:
    """Each candidate says what kept it out, the chosen one was not kept out, unknown and null fields do nothing."""
    decision = standard.client.decide("ann", **fields)

    assert excluded(decision) == expected
    assert decision["status"] == "routed"
    assert expected[decision["model"]] is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"requires": ["vision", "nobody has it"]}, "no_model"),
        ({"models": ["off"]}, "no_model"),
        ({"models": ["narrow"], "input_tokens": 101}, "no_model"),
        ({"models": ["small"], "requires": ["vision"]}, "no_model"),
        ({"max_cost_usd": 0}, "max_cost"),
        ({"models": [NOBODY], "max_cost_usd": 0}, "no_model"),
    ],
)
def test_reasons(standard: Deployment, fields: Row, reason: str) -> None:
    """A query that no model may answer is rejected with the first reason that applies."""
    with standard.worker.counted("pilot_queries_total", outcome="rejected"):
        decision = standard.client.decide("ann", **fields)
    assert (decision["status"], decision["reason"]) == ("rejected", reason)


def test_text_counts_a_token_every_four_bytes(standard: Deployment) -> None:
    """With text and embedding the estimate takes the prompt's tokens from the text's bytes, four a token."""
    user, text = unique("user"), "ü" * 999

    by_text = standard.client.decide(user, models=["large"], text=text, embedding=EMBEDDING)
    by_count = standard.client.decide(user, models=["large"], input_tokens=500)

    assert by_text["estimated_cost_usd"] == pytest.approx(by_count["estimated_cost_usd"], abs=2e-9)


def test_headers_are_copied(standard: Deployment) -> None:
    """The headers of a query record are on its decision, in order, repeated names and bytes included."""
    headers = [("traceparent", b"00-abc"), ("reply", b"\xff\x00"), ("reply", b"again"), ("empty", b""), ("null", None)]

    query_id, _ = standard.client.query("ann", headers=headers)

    assert list(standard.client.decisions(query_id)[0].headers) == headers


def test_first_sixteen_headers_are_copied(standard: Deployment) -> None:
    """Of many headers the first sixteen are copied."""
    headers = [(f"h{number}", b"x") for number in range(20)]

    query_id, _ = standard.client.query("ann", headers=headers)

    assert list(standard.client.decisions(query_id)[0].headers) == headers[:16]


def test_four_kibibytes_of_headers_are_copied(standard: Deployment) -> None:
    """Headers are copied as long as names and values stay within 4 KiB."""
    headers = [("a", b"x" * 2047), ("b", b"x" * 2047), ("c", b"x")]

    query_id, _ = standard.client.query("ann", headers=headers)

    assert list(standard.client.decisions(query_id)[0].headers) == headers[:2]


def test_repeated_query_gets_its_decision_again(standard: Deployment) -> None:
    """A repeat gets the recorded value byte for byte under its own headers, whatever else it says; nothing reserves."""
    user = standard.client.user(1.0)
    query_id, _ = standard.client.query(user, headers=[("try", b"1")], metadata={"n": "1"})
    (first,) = standard.client.decisions(query_id)
    before = standard.client.account(user)

    with standard.worker.counted("pilot_queries_total", outcome="repeated"):
        standard.client.query(user, query_id, headers=[("try", b"2")], models=[NOBODY], metadata={"n": "2"})
        second = standard.client.decisions(query_id, 2)[1]

    assert second.value == first.value
    assert (second.key, second.partition) == (first.key, first.partition)
    assert [list(record.headers) for record in (first, second)] == [[("try", b"1")], [("try", b"2")]]
    assert standard.client.account(user) == before


def test_repeated_rejection_is_repeated(standard: Deployment) -> None:
    """A rejected query that comes again is rejected again, byte for byte, even if it could be routed now."""
    query_id, _ = standard.client.query("ann", models=[NOBODY])
    standard.client.decisions(query_id)

    standard.client.query("ann", query_id, headers=[("again", b"yes")])

    first, second = standard.client.decisions(query_id, 2)
    assert second.value == first.value
    assert list(second.headers) == [("again", b"yes")]


def test_settled_query_is_repeated(standard: Deployment) -> None:
    """A repeat after the feedback is the decision as it was sent, and the account stays as settled."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    standard.client.settle(user, query_id, cost_usd=0.25, reward=1)
    before = standard.client.account(user)

    standard.client.query(user, query_id)

    first, second = standard.client.decisions(query_id, 2)
    assert second.value == first.value
    assert standard.client.account(user) == before


def test_query_ids_belong_to_their_user(standard: Deployment) -> None:
    """The same query_id of two users is two queries."""
    query_id = unique("q")
    ann, bob = standard.client.user(1.0), standard.client.user(2.0)
    standard.client.query(ann, query_id)
    standard.client.query(bob, query_id)

    decisions = [json.loads(record.value) for record in standard.client.decisions(query_id, 2)]

    assert {d["user_id"]: d["budget"]["limit_usd"] for d in decisions} == {ann: 1.0, bob: 2.0}


@pytest.mark.parametrize("user", ["ü" * 128, "名前 with spaces", "a\u2028b", "x"])
def test_ids_are_any_text(standard: Deployment, user: str) -> None:
    """Ids of up to 256 bytes in any script are decided on the partition that murmur2 of the raw key names."""
    query_id, _ = standard.client.query(user, query_id=unique(user[:40]))

    (record,) = standard.client.decisions(query_id)

    assert record.key == user.encode()
    assert record.partition == (murmur2(user.encode()) & 0x7FFFFFFF) % 4
    assert json.loads(record.value)["user_id"] == user


def test_largest_metadata_is_echoed(standard: Deployment) -> None:
    """Metadata of 32 entries and 4 KiB and a task of 128 bytes are accepted, and the metadata is echoed."""
    metadata = {f"{number:04}": "é" * 62 for number in range(32)}

    decision = standard.client.decide("ann", metadata=metadata, task="t" * 128, max_output_tokens=10)

    assert decision["metadata"] == metadata


def test_aborted_transactions_are_not_decided(standard: Deployment) -> None:
    """Of a transactional producer's queries only the committed ones are decided, and the commit passes the aborted."""
    user, committed, aborted = unique("user"), unique("q"), unique("q")

    async def produce() -> Any:
        producer = AIOKafkaProducer(
            bootstrap_servers=standard.settings.bootstrap_servers, transactional_id=unique("transaction")
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, _query(user, aborted), user.encode())
            await producer.abort_transaction()
            async with producer.transaction():
                return await producer.send_and_wait(topic, _query(user, committed), user.encode())
        finally:
            await producer.stop()

    topic = standard.settings.topic("queries")
    standard.client.run(produce())
    assert json.loads(standard.client.decisions(committed)[0].value)["status"] == "routed"
    _, after = standard.client.query(user)
    standard.client.committed(after)
    assert standard.client.seen(aborted) == []


def test_decisions_are_counted(standard: Deployment) -> None:
    """A decision counts once, with its latency, its estimated cost and what the best model would have cost."""
    worker = standard.worker
    names = ("pilot_baseline_cost_usd_total", "pilot_cost_usd_total")
    before = [worker.metric(name) for name in names]
    labels = {"model": "small", "policy": "pacing", "status": "routed"}
    with (
        worker.counted("pilot_queries_total", outcome="routed"),
        worker.counted("pilot_decisions_total", **labels),
        worker.counted("pilot_decision_latency_seconds_count"),
    ):
        decision = standard.client.decide("ann", models=["small"])

    # Only one model was allowed, so it is the best one too.
    added = [worker.metric(name) - value for name, value in zip(names, before, strict=True)]
    assert added == pytest.approx([decision["estimated_cost_usd"]] * 2)


def test_public_metrics_are_served(standard: Deployment) -> None:
    """Every metric that others may rely on has samples once there was traffic; commits and lag are up to date."""
    user, query_id = unique("user"), standard.client.route("ann", "small")
    standard.client.settle("ann", query_id, cost_usd=0.001, reward=1)
    standard.client.letters(standard.client.send("feedback", user.encode(), b"{"))

    text = standard.worker.get("/metrics")[1]

    samples = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert samples >= PUBLIC_METRICS
    assert standard.worker.metric("pilot_last_commit_timestamp_seconds") == pytest.approx(time.time(), abs=60)
    until(lambda: standard.worker.metric("pilot_consumer_lag") == 0)


def _query(user: str, query_id: str) -> bytes:
    return json.dumps({"query_id": query_id, "user_id": user, "embedding": EMBEDDING}).encode()
