"""Whatever lies on a source topic, reading it ends in an event or in a dead letter."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.errors import BadRecord, DeadLetterCode
from worker.events import BudgetRecord, Feedback, ModelRecord, Query, parse, parse_feedback

QUICK = settings(deadline=None, derandomize=True, max_examples=150)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**19, 10**400, -(10**25)])
    | st.floats()
    | st.text(max_size=20)
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({name for kind in (Query, Feedback, ModelRecord, BudgetRecord) for name in kind.model_fields})
nearly = st.dictionaries(st.sampled_from(FIELDS), documents | st.just("ok") | st.just("u1"), max_size=8)


def refusal(read: Callable[[bytes | None], object], value: bytes | None) -> BadRecord | None:
    try:
        read(value)
    except BadRecord as bad:
        return bad
    return None


def read_all(value: bytes | None) -> None:
    """Read as each kind of event; only `BadRecord` may come out, with a text that fits a header."""
    for kind in (Query, Feedback, ModelRecord, BudgetRecord):
        bad = refusal(parse_feedback if kind is Feedback else partial(parse, kind), value)
        if bad is not None:
            assert bad.code in (DeadLetterCode.INVALID_JSON, DeadLetterCode.INVALID_EVENT)
            assert 0 < len(bad.message.encode()) < 2_000


@QUICK
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff\xfe")
@example(b"NaN")
@example(b'{"reward": 1e999}')
@example(b'{"query_id": "\\ud800"}')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
def test_bytes_never_crash_the_reader(value: bytes) -> None:
    """Arbitrary bytes are a dead letter."""
    read_all(value)


@QUICK
@given(documents)
def test_json_never_crashes_the_reader(document: object) -> None:
    """Arbitrary JSON, huge numbers and NaN included, is a dead letter or an event."""
    read_all(json.dumps(document).encode(errors="surrogatepass"))


@QUICK
@given(nearly)
def test_nearly_valid_events_never_crash_the_reader(document: dict[str, object]) -> None:
    """Known fields with any content are a dead letter or an event."""
    read_all(json.dumps(document).encode(errors="surrogatepass"))


@pytest.mark.parametrize("value", [None, b"", b"null", b"[]", b'"text"', b"1", b"NaN", b"\xff", b'{"a": Infinity}'])
def test_what_is_no_json_object_is_invalid_json(value: bytes | None) -> None:
    """Absent, empty, no JSON, no object, NaN: all of them are invalid_json, before any field is looked at."""
    with pytest.raises(BadRecord) as caught:
        parse_feedback(value)
    assert caught.value.code is DeadLetterCode.INVALID_JSON
