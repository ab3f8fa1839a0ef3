"""What cannot be processed is set aside: every code, untouched originals, and the order of the codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.broker.support import EMBEDDING, Deployment, Sent, unique

NAMES = [
    "pilot.error.code",
    "pilot.error.message",
    "pilot.source.topic",
    "pilot.source.partition",
    "pilot.source.offset",
    "pilot.source.timestamp",
]
CODES = ["invalid_json", "invalid_event", "invalid_key", "wrong_partition", "invalid_embedding"]
HEADERS = [("traceparent", b"00-abc"), ("pilot.error.code", b"from before"), ("traceparent", b"\xff")]
USER = "user"
ELSEWHERE = 1  # no partition of the user's key, which a test below makes sure of

NO_JSON: dict[str, bytes | None] = {
    "tombstone": None,
    "empty": b"",
    "blank": b"  ",
    "not UTF-8": b'{"query_id": "\xff"}',
    "cut off": b'{"query_id": "q"',
    "array": b"[]",
    "string": b'"text"',
    "number": b"7",
    "null": b"null",
    "NaN": b'{"query_id": "q", "max_cost_usd": NaN, "reward": NaN}',
    "Infinity": b'{"query_id": "q", "max_cost_usd": Infinity, "reward": Infinity}',
    "negative Infinity": b'{"query_id": "q", "max_cost_usd": -Infinity, "reward": -Infinity}',
    "two objects": b"{}{}",
    "byte order mark": b"\xef\xbb\xbf{}",
}
BAD_IDS: dict[str, tuple[dict[str, Any], str]] = {
    "no query_id": ({"query_id": None}, "query_id"),
    "query_id is a number": ({"query_id": 7}, "query_id"),
    "query_id is empty": ({"query_id": ""}, "query_id"),
    "query_id is long": ({"query_id": "é" * 129}, "query_id"),
    "query_id with a newline": ({"query_id": "a\nb"}, "query_id"),
    "query_id with a C1 control": ({"query_id": "a\x85b"}, "query_id"),
    "no user_id": ({"user_id": None}, "user_id"),
    "user_id is everyone else": ({"user_id": "*"}, "user_id"),
    "user_id with a NUL": ({"user_id": "a\0"}, "user_id"),
}
BAD_QUERIES: dict[str, tuple[dict[str, Any], str]] = {
    **BAD_IDS,
    "neither text nor embedding": ({"embedding": None}, "text or embedding"),
    "text is a number": ({"text": 7}, "text"),
    "text is long": ({"text": "x" * 400_001}, "text"),
    "embedding of text": ({"embedding": ["1"] * 384}, "embedding"),
    "embedding of booleans": ({"embedding": [True] * 384}, "embedding"),
    "embedding is text": ({"embedding": "abc"}, "embedding"),
    "no models": ({"models": []}, "models"),
    "models is text": ({"models": "small"}, "models"),
    "models of numbers": ({"models": [1]}, "models"),
    "requires is text": ({"requires": "fast"}, "requires"),
    "task is long": ({"task": "é" * 65}, "task"),
    "max_cost_usd is text": ({"max_cost_usd": "0.5"}, "max_cost_usd"),
    "max_cost_usd is a boolean": ({"max_cost_usd": True}, "max_cost_usd"),
    "max_cost_usd is negative": ({"max_cost_usd": -0.1}, "max_cost_usd"),
    "input_tokens is a fraction": ({"input_tokens": 1.5}, "input_tokens"),
    "input_tokens is negative": ({"input_tokens": -1}, "input_tokens"),
    "max_output_tokens is text": ({"max_output_tokens": "9"}, "max_output_tokens"),
    "metadata of numbers": ({"metadata": {"a": 1}}, "metadata"),
    "metadata of many": ({"metadata": {str(n): "" for n in range(33)}}, "metadata"),
    "metadata is large": ({"metadata": {"a": "é" * 2048}}, "metadata"),
}
BAD_FEEDBACK: dict[str, tuple[dict[str, Any], str]] = {
    **BAD_IDS,
    "says nothing": ({"reward": None}, "reward"),
    "says only ok": ({"reward": None, "status": "ok", "model": "small"}, "reward"),
    "reward above 1": ({"reward": 1.01}, "reward"),
    "reward below 0": ({"reward": -0.01}, "reward"),
    "reward is text": ({"reward": "0.5"}, "reward"),
    "reward is a boolean": ({"reward": True}, "reward"),
    "cost is negative": ({"cost_usd": -0.01}, "cost_usd"),
    "cost is text": ({"cost_usd": "0.5"}, "cost_usd"),
    "input tokens alone": ({"input_tokens": 1}, "output_tokens"),
    "output tokens alone": ({"output_tokens": 1}, "input_tokens"),
    "tokens are fractions": ({"input_tokens": 1, "output_tokens": 0.5}, "output_tokens"),
    "status is unknown": ({"status": "late"}, "status"),
    "model is empty": ({"model": ""}, "model"),
    "latency is text": ({"latency_ms": "5"}, "latency_ms"),
    "value is large": ({"more": "x" * 16 * 1024}, "16384"),
}


def query(**fields: Any) -> bytes:
    return json.dumps({"query_id": unique("q"), "user_id": USER, "embedding": EMBEDDING, **fields}).encode()


def feedback(**fields: Any) -> bytes:
    return json.dumps({"query_id": unique("q"), "user_id": USER, "reward": 1, **fields}).encode()


def expect(standard: Deployment, sent: Sent, code: str, names: str = "") -> None:
    """The record's only dead letter has this code, and a message that names what is wrong."""
    (letter,) = standard.client.letters(sent)
    said = dict(letter.headers)
    assert said["pilot.error.code"].decode() == code
    assert names in said["pilot.error.message"].decode()


@pytest.mark.parametrize("topic", ["queries", "feedback"])
@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON)
def test_invalid_json(standard: Deployment, topic: str, value: bytes | None) -> None:
    """A value that is no JSON object is set aside as it came, a tombstone as a tombstone."""
    sent = standard.client.send(topic, USER.encode(), value)

    expect(standard, sent, "invalid_json")

    assert standard.client.letters(sent)[0].value == value


@pytest.mark.parametrize(("fields", "names"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_invalid_query(standard: Deployment, fields: dict[str, Any], names: str) -> None:
    """A query with a missing, ill-typed or excessive field is set aside, and the message names the field."""
    sent = standard.client.send("queries", USER.encode(), query(**fields))
    expect(standard, sent, "invalid_event", names)


@pytest.mark.parametrize(("fields", "names"), BAD_FEEDBACK.values(), ids=BAD_FEEDBACK)
def test_invalid_feedback(standard: Deployment, fields: dict[str, Any], names: str) -> None:
    """Feedback with a missing, ill-typed or excessive field is set aside, and the message names the field."""
    sent = standard.client.send("feedback", USER.encode(), feedback(**fields))
    expect(standard, sent, "invalid_event", names)


@pytest.mark.parametrize("topic", ["queries", "feedback"])
@pytest.mark.parametrize("key", [None, b"", b"another", b'"user"', b"\xff"])
def test_invalid_key(standard: Deployment, topic: str, key: bytes | None) -> None:
    """A key that is missing or not the raw user_id is set aside, with that very key."""
    value = query() if topic == "queries" else feedback()

    sent = standard.client.send(topic, key, value, partition=0)

    expect(standard, sent, "invalid_key", "user_id")
    assert standard.client.letters(sent)[0].key == key


@pytest.mark.parametrize("topic", ["queries", "feedback"])
def test_wrong_partition(standard: Deployment, topic: str) -> None:
    """A record beside the partition of its key is set aside, and the message names the setting of the client."""
    value = query() if topic == "queries" else feedback()
    assert standard.client.send(topic, USER.encode(), value).partition != ELSEWHERE

    sent = standard.client.send(topic, USER.encode(), value, partition=ELSEWHERE)

    expect(standard, sent, "wrong_partition", "partitioner=murmur2_random")


@pytest.mark.parametrize(
    ("embedding", "names"),
    [(EMBEDDING[:-1], "383"), ([*EMBEDDING, 1.0], "385"), ([], "0"), ([0] * 384, "zero"), ([1e200] * 384, "finite")],
    ids=["short", "long", "empty", "zero", "infinite"],
)
def test_invalid_embedding(standard: Deployment, embedding: list[float], names: str) -> None:
    """An embedding of another length than the encoder's, zero or not finite is set aside, even beside a text."""
    sent = standard.client.send("queries", USER.encode(), query(embedding=embedding, text="words"))
    expect(standard, sent, "invalid_embedding", names)


@pytest.mark.parametrize("first", range(len(CODES)), ids=CODES)
def test_order_of_codes(standard: Deployment, first: int) -> None:
    """Of several faults in a query the first in the contract's order is named."""
    value = b"{" if first == 0 else query(models=[] if first <= 1 else None, embedding=[1.0])
    key = b"another" if first <= 2 else USER.encode()
    here = standard.client.send("queries", USER.encode(), query()).partition

    sent = standard.client.send("queries", key, value, partition=ELSEWHERE if first <= 3 else here)

    expect(standard, sent, CODES[first])


@pytest.mark.parametrize(
    ("value", "key", "code"),
    [
        (b"x" * 20_000, b"another", "invalid_json"),
        (feedback(reward=2), b"another", "invalid_event"),
        (feedback(), b"another", "invalid_key"),
        (feedback(), USER.encode(), "wrong_partition"),
    ],
    ids=["invalid_json", "invalid_event", "invalid_key", "wrong_partition"],
)
def test_order_of_codes_of_feedback(standard: Deployment, value: bytes, key: bytes, code: str) -> None:
    """Of several faults in feedback the first in the contract's order is named, before any look at the query."""
    expect(standard, standard.client.send("feedback", key, value, partition=ELSEWHERE), code)


def test_misplaced_feedback_to_a_rejected_query(standard: Deployment) -> None:
    """Feedback beside its partition is `wrong_partition` even if its query was rejected."""
    rejected = standard.client.decide(USER, models=["nobody"])["query_id"]
    sent = standard.client.send("feedback", USER.encode(), feedback(query_id=rejected), partition=ELSEWHERE)
    expect(standard, sent, "wrong_partition")


@pytest.mark.parametrize("topic", ["queries", "feedback"])
def test_dead_letter_is_the_original_and_says_where_from(standard: Deployment, topic: str) -> None:
    """A dead letter keeps key, value and headers as received; six headers follow that say why and where from."""
    value = b'{ "query_id" : "q" , "user_id":"user", "surprise": 1e2 }\n'
    with (
        standard.worker.counted("pilot_dead_letters_total", topic=topic, code="invalid_event"),
        standard.worker.counted(
            *("pilot_queries_total",) if topic == "queries" else ("pilot_feedback_total",), outcome="dead_letter"
        ),
    ):
        sent = standard.client.send(topic, USER.encode(), value, HEADERS)
        (letter,) = standard.client.letters(sent)

    assert (letter.key, letter.value, letter.partition) == (USER.encode(), value, 0)
    assert list(letter.headers[: len(HEADERS)]) == HEADERS
    added = letter.headers[len(HEADERS) :]
    assert [name for name, _ in added] == NAMES
    assert [text.decode() for _, text in added[2:]] == [
        standard.settings.topic(topic), str(sent.partition), str(sent.offset), str(sent.timestamp),
    ]  # fmt: skip


def test_largest_record_can_be_set_aside(standard: Deployment) -> None:
    """A query of nearly the largest size, with headers, is set aside whole."""
    value = query(text="\N{GRINNING FACE}" * 400_000, max_cost_usd=-1, more="x" * 400_000)
    headers = [("large", b"x" * 20_000)]
    assert len(value) > 5_200_000

    sent = standard.client.send("queries", USER.encode(), value, headers)

    expect(standard, sent, "invalid_event", "max_cost_usd")
    (letter,) = standard.client.letters(sent)
    assert letter.value == value
    assert list(letter.headers[:1]) == headers


def test_largest_text_is_accepted(standard: Deployment) -> None:
    """A text of 400,000 characters, each escaped in JSON, is decided."""
    text = "\N{GRINNING FACE}" * 400_000
    decision = standard.client.decide(USER, text=text, embedding=EMBEDDING, models=["small"])
    assert decision["status"] == "routed"


def test_stream_goes_on(standard: Deployment) -> None:
    """After bad records of each kind the next good query and feedback of the same partition are processed."""
    user = standard.client.user(1.0)
    for topic in ("queries", "feedback"):
        for value in (None, b"", b"{", b"{}", query(user_id=user)):
            standard.client.send(topic, user.encode(), value)

    query_id = standard.client.route(user, "small")
    standard.client.settle(user, query_id, cost_usd=0.001)

    account = standard.client.account(user)
    assert account is not None
    assert account["settled_usd"] == 0.001
