"""What the worker reads and writes: the rules of the contract that can be decided from a value alone."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import events
from worker.errors import BadRecord, DeadLetterCode
from worker.events import BudgetRecord, Feedback, ModelRecord, Query

QUERY: dict[str, Any] = {"query_id": "q-1", "user_id": "alice", "text": "hello"}
FEEDBACK: dict[str, Any] = {"query_id": "q-1", "user_id": "alice", "reward": 0.5}
MODEL: dict[str, Any] = {"model": "gpt-4", "input_usd_per_mtok": 10, "output_usd_per_mtok": 30}


def query(**fields: Any) -> Query:
    return events.parse(Query, orjson.dumps({**QUERY, **fields}))


def feedback(**fields: Any) -> Feedback:
    return events.parse_feedback(orjson.dumps({**FEEDBACK, **fields}))


def model(**fields: Any) -> ModelRecord:
    return events.parse(ModelRecord, orjson.dumps({**MODEL, **fields}))


def refusal(kind: Any, value: bytes | None) -> BadRecord:
    """How a value is refused."""
    with pytest.raises(BadRecord) as refused:
        events.parse(kind, value) if kind is not Feedback else events.parse_feedback(value)
    return refused.value


def _refusal_or_none(value: bytes) -> BadRecord | None:
    try:
        events.parse(Query, value)
    except BadRecord as refused:
        return refused
    return None


def complaint(kind: Any, content: dict[str, Any]) -> str:
    """The message about an event that is JSON but not valid."""
    refused = refusal(kind, json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
    assert refused.code == DeadLetterCode.INVALID_EVENT
    return refused.message


class TestJson:
    """Values that are no JSON object: `invalid_json`."""

    @pytest.mark.parametrize(
        "value",
        [
            None,
            b"",
            b" ",
            b"hello",
            b"\xff\xfe",
            b'{"query_id": "caf\xe9"}',
            b'"text"',
            b"[]",
            b"null",
            b"17",
            b'{"query_id": "q-1"',
            b'{"query_id": "q-1",}',
            b"{} {}",
            b'{"reward": NaN}',
            b'{"reward": Infinity}',
            b'{"reward": -Infinity}',
            b'{"reward": 1e999}',
            b'{"text": "\\ud800"}',
            b"\xef\xbb\xbf{}",
            b"[" * 5000,
        ],
    )
    @pytest.mark.parametrize("kind", [Query, Feedback, ModelRecord, BudgetRecord])
    def test_are_refused(self, kind: Any, value: bytes | None) -> None:
        """Whatever the topic, the code is the same, and a non-empty message says what is wrong."""
        refused = refusal(kind, value)
        assert refused.code == DeadLetterCode.INVALID_JSON
        assert refused.message

    @given(st.binary(max_size=60))
    def test_no_bytes_break_the_reader(self, value: bytes) -> None:
        """Arbitrary bytes are refused as a bad record, never with another exception."""
        assert refusal(Query, value).code in {DeadLetterCode.INVALID_JSON, DeadLetterCode.INVALID_EVENT}

    @given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5))
    def test_no_json_breaks_the_reader(self, content: Any) -> None:
        """The same for JSON of any type in any field."""
        for name in Query.model_fields:
            value = orjson.dumps({**QUERY, name: content})
            refused = _refusal_or_none(value)
            if refused is not None:
                assert refused.code == DeadLetterCode.INVALID_EVENT
                assert refused.message.startswith((name, "event: needs text or embedding"))

    def test_broken_json_comes_before_a_limit(self) -> None:
        """Where several codes apply, the first in the contract's order is taken."""
        assert refusal(Feedback, b"x" * 20_000).code == DeadLetterCode.INVALID_JSON


class TestAbsence:
    """Null, missing and unknown fields."""

    def test_null_is_absent(self) -> None:
        """An optional field with null is as if it were not there; its default holds."""
        assert query(**dict.fromkeys(set(Query.model_fields) - set(QUERY))) == query()
        assert feedback(status=None).status == "ok"
        assert model(request_usd=None, enabled=None, tags=None) == model()

    def test_a_required_field_with_null_is_missing(self) -> None:
        """Null does not count as an id."""
        assert complaint(Query, {**QUERY, "user_id": None}) == "user_id: Field required"

    def test_unknown_fields_are_ignored(self) -> None:
        """Callers may send more than we know, of any type."""
        assert query(priority=3, nested={"a": [1]}) == query()

    def test_null_inside_a_list_or_map_is_no_absence(self) -> None:
        """Only fields may be null."""
        assert complaint(Query, {**QUERY, "models": [None]}).startswith("models.0: ")
        assert complaint(Query, {**QUERY, "metadata": {"a": None}}).startswith("metadata.a: ")


class TestTypes:
    """No type is taken for another."""

    @pytest.mark.parametrize("value", ["0.5", True, [0.5], {}])
    @pytest.mark.parametrize("field", ["max_cost_usd"])
    def test_a_number_is_a_number(self, field: str, value: Any) -> None:
        """Text and booleans are no money."""
        assert complaint(Query, {**QUERY, field: value}).startswith(f"{field}: ")

    @pytest.mark.parametrize("value", ["7", True, 7.5, 10**20, -1])
    @pytest.mark.parametrize("field", ["input_tokens", "max_output_tokens"])
    def test_tokens_are_whole_numbers(self, field: str, value: Any) -> None:
        """Neither fractions nor negative ones, nor more than a billion."""
        assert complaint(Query, {**QUERY, field: value}).startswith(f"{field}: ")

    def test_a_whole_number_is_money_too(self) -> None:
        """JSON does not tell 1 from 1.0, and money may be written as either."""
        assert query(max_cost_usd=1).max_cost_usd == 1.0

    @pytest.mark.parametrize("field", ["query_id", "user_id", "text", "task"])
    def test_text_is_text(self, field: str) -> None:
        """A number is no id and no prompt."""
        assert complaint(Query, {**QUERY, field: 7}).startswith(f"{field}: ")

    @pytest.mark.parametrize("value", ["true", 1, 0])
    def test_a_switch_is_a_boolean(self, value: Any) -> None:
        """Neither "true" nor 1."""
        assert complaint(ModelRecord, {**MODEL, "enabled": value}).startswith("enabled: ")

    @pytest.mark.parametrize("value", [["0.1"], [True], [None], [[0.1]], "0.1", {"0": 0.1}])
    def test_an_embedding_is_a_list_of_numbers(self, value: Any) -> None:
        """Its length and norm are judged later; its type is judged here."""
        assert complaint(Query, {**QUERY, "embedding": value}).startswith("embedding")

    def test_metadata_is_text_to_text(self) -> None:
        """Nested values are not echoed."""
        assert complaint(Query, {**QUERY, "metadata": {"a": {"b": "c"}}}).startswith("metadata.a: ")


class TestIds:
    """query_id, user_id and model."""

    @pytest.mark.parametrize("good", ["x", "*a", "a b", "né", "日本", "x" * 256, "é" * 128, "👩‍🚀", "\u2028"])
    def test_up_to_256_bytes_of_anything_printable(self, good: str) -> None:
        """Spaces and any script are welcome."""
        assert query(query_id=good, user_id=good).query_id == good

    @pytest.mark.parametrize("bad", ["", "a\x00", "a\nb", "\x7f", "a\x85", "x" * 257, "é" * 129])
    @pytest.mark.parametrize("field", ["query_id", "user_id"])
    def test_not_empty_not_longer_no_control_characters(self, field: str, bad: str) -> None:
        """Length is counted in UTF-8 bytes; C0, DEL and C1 are control characters."""
        assert complaint(Query, {**QUERY, field: bad}).startswith(f"{field}: must ")

    def test_a_star_is_no_user(self) -> None:
        """`*` is everyone else's budget; as a query_id it is fine."""
        assert complaint(Query, {**QUERY, "user_id": "*"}) == "user_id: '*' is no user id"
        assert complaint(Feedback, {**FEEDBACK, "user_id": "*"}) == "user_id: '*' is no user id"
        assert query(query_id="*").query_id == "*"

    def test_models_of_an_allow_list_are_ids(self) -> None:
        """An empty name in the list is refused, and so is an empty list."""
        assert query(models=["gpt-4"]).models == ["gpt-4"]
        assert complaint(Query, {**QUERY, "models": ["gpt-4", ""]}).startswith("models.1: ")
        assert complaint(Query, {**QUERY, "models": []}).startswith("models: ")


class TestQuery:
    """Limits and rules across fields of a query."""

    def test_needs_text_or_embedding(self) -> None:
        """Either will do, both are fine, an empty text is a text."""
        assert complaint(Query, {**QUERY, "text": None}) == "event: needs text or embedding"
        assert query(text=None, embedding=[0.5]).embedding == [0.5]
        assert query(embedding=[1]).text == "hello"
        assert query(text="").text == ""

    def test_a_text_has_at_most_400000_characters(self) -> None:
        """Characters, not bytes."""
        assert query(text="é" * 400_000)
        assert complaint(Query, {**QUERY, "text": "x" * 400_001}).startswith("text: ")

    def test_a_task_has_at_most_128_bytes(self) -> None:
        """Bytes, not characters."""
        assert query(task="é" * 64)
        assert complaint(Query, {**QUERY, "task": "é" * 65}) == "task: must be at most 128 bytes"

    def test_metadata_has_at_most_32_entries_and_4_kib(self) -> None:
        """Keys count as well as values."""
        assert query(metadata={str(n): "v" for n in range(32)})
        assert query(metadata={"k" * 96: "v" * 4000})
        assert "32 entries" in complaint(Query, {**QUERY, "metadata": {str(n): "" for n in range(33)}})
        assert "4096 bytes" in complaint(Query, {**QUERY, "metadata": {"k" * 97: "v" * 4000}})

    @pytest.mark.parametrize("field", ["max_cost_usd", "input_tokens", "max_output_tokens"])
    def test_zero_is_a_value(self, field: str) -> None:
        """A cost limit of 0 is not an absent one."""
        assert getattr(query(**{field: 0}), field) == 0

    def test_negative_money_is_refused(self) -> None:
        """So is more than a million dollars a call: sums in state stay exact."""
        assert complaint(Query, {**QUERY, "max_cost_usd": -1e-9}).startswith("max_cost_usd: ")
        assert complaint(Query, {**QUERY, "max_cost_usd": 1e6 + 1}).startswith("max_cost_usd: ")


class TestFeedback:
    """Limits and rules across fields of feedback."""

    @pytest.mark.parametrize(
        "part",
        [
            {"reward": 0},
            {"reward": 1},
            {"cost_usd": 0},
            {"input_tokens": 0, "output_tokens": 0},
            {"status": "error"},
            {"status": "timeout"},
        ],
    )
    def test_one_part_is_enough(self, part: dict[str, Any]) -> None:
        """Cost now, rating later; a failure alone is feedback too."""
        content = {"query_id": "q-1", "user_id": "alice", **part}
        assert events.parse_feedback(orjson.dumps(content)).model_dump(include=set(part)) == part

    @pytest.mark.parametrize("rest", [{}, {"latency_ms": 5}, {"status": "ok"}, {"model": "gpt-4", "source": "user"}])
    def test_none_is_too_little(self, rest: dict[str, Any]) -> None:
        """What nothing can be settled or learned from is refused, and the message says what is missing."""
        message = complaint(Feedback, {"query_id": "q-1", "user_id": "alice", **rest})
        assert message.startswith("event: needs reward, cost_usd, input_tokens + output_tokens")

    @pytest.mark.parametrize("half", ["input_tokens", "output_tokens"])
    def test_tokens_come_in_pairs(self, half: str) -> None:
        """Even where another part would be enough."""
        assert (
            complaint(Feedback, {**FEEDBACK, half: 5})
            == "event: needs both of input_tokens and output_tokens, or neither"
        )

    @pytest.mark.parametrize("reward", [-0.01, 1.01, "1", True, 100])
    def test_a_reward_is_from_0_to_1(self, reward: Any) -> None:
        """Other scales are the caller's to convert."""
        assert complaint(Feedback, {**FEEDBACK, "reward": reward}).startswith("reward: ")

    def test_a_status_is_one_of_three(self) -> None:
        """`ok` is the default, and only the others are failures."""
        assert not feedback().failed
        assert feedback(status="error").failed
        assert feedback(status="timeout").failed
        assert complaint(Feedback, {**FEEDBACK, "status": "cancelled"}).startswith("status: ")

    @pytest.mark.parametrize("field", ["cost_usd", "latency_ms"])
    def test_amounts_are_not_negative(self, field: str) -> None:
        """Neither money nor time runs backwards."""
        assert complaint(Feedback, {**FEEDBACK, field: -1}).startswith(f"{field}: ")

    def test_a_value_has_at_most_16_kib(self) -> None:
        """Early feedback is kept in state, so its size is bounded, unknown fields included."""
        room = 16 * 1024 - len(orjson.dumps({**FEEDBACK, "note": ""}))
        assert feedback(note="x" * room) == feedback()
        message = complaint(Feedback, {**FEEDBACK, "note": "x" * (room + 1)})
        assert message == "value: 16385 bytes, at most 16384"


class TestControl:
    """Records of the control topics."""

    def test_a_model_has_defaults(self) -> None:
        """Only the name and two prices are required."""
        found = model()
        assert (found.request_usd, found.enabled, found.expected_output_tokens, found.tags) == (0, True, 256, [])
        assert found.max_output_tokens is None
        assert found.max_input_tokens is None

    @pytest.mark.parametrize("field", sorted(MODEL))
    def test_a_model_needs_name_and_prices(self, field: str) -> None:
        """The message names the one that is missing."""
        assert complaint(ModelRecord, {**MODEL, field: None}) == f"{field}: Field required"

    @pytest.mark.parametrize("field", ["expected_output_tokens", "max_output_tokens", "max_input_tokens"])
    def test_token_limits_are_positive(self, field: str) -> None:
        """A model without room for a token cannot answer."""
        assert complaint(ModelRecord, {**MODEL, field: 0}).startswith(f"{field}: ")

    @pytest.mark.parametrize("limit", [-0.01, "5", None, True, 1e10])
    def test_a_limit_is_an_amount(self, limit: Any) -> None:
        """Zero is allowed: such a user may spend nothing."""
        assert complaint(BudgetRecord, {"limit_usd": limit}).startswith("limit_usd: ")
        assert events.parse(BudgetRecord, b'{"limit_usd": 0}').limit_usd == 0


class TestMessages:
    """The message of a dead letter travels in a header and is read by people."""

    def test_a_message_stays_short_whatever_was_sent(self) -> None:
        """A key of any length is shortened, else the dead letter could exceed its topic's limit."""
        assert len(complaint(Query, {**QUERY, "metadata": {"k" * 100_000: 1}})) < 500

    def test_a_message_does_not_repeat_the_prompt(self) -> None:
        """What a user wrote stays in the value, which may be protected otherwise than headers and logs."""
        assert "secret" not in complaint(Query, {**QUERY, "text": "secret", "input_tokens": "secret"})

    def test_thousands_of_mistakes_are_one_message(self) -> None:
        """The first is named."""
        assert complaint(Query, {**QUERY, "embedding": ["x"] * 100_000}).startswith("embedding.0: ")
