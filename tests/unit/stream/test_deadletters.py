"""Dead letters: the original untouched, the reason in headers."""

from __future__ import annotations

import pytest

from worker.errors import BadRecord, DeadLetterCode
from worker.stream.batch import SourceRecord
from worker.stream.deadletters import dead_letter

BAD = BadRecord(DeadLetterCode.INVALID_EVENT, "reward: größer als 1")


@pytest.mark.parametrize(("key", "value"), [(b"user", b"\xff\x00raw"), (None, None), (b"", b"")])
def test_original_is_untouched(key: bytes | None, value: bytes | None) -> None:
    """Key and value are the received bytes, absent ones included, on the only partition."""
    letter = dead_letter("t.dead-letters", SourceRecord("t.queries", 3, 7, 8, key, value), BAD)
    assert (letter.topic, letter.partition, letter.key, letter.value) == ("t.dead-letters", 0, key, value)


def test_headers_say_why_and_where_from() -> None:
    """The original headers come first and in order, then code, message and source; numbers as decimal text."""
    original = (("trace", b"1"), ("trace", b"2"), ("empty", None))
    letter = dead_letter("t.dead-letters", SourceRecord("t.queries", 3, 70_000, -1, b"user", b"{}", original), BAD)
    assert letter.headers == (
        *original,
        ("pilot.error.code", b"invalid_event"),
        ("pilot.error.message", "reward: größer als 1".encode()),
        ("pilot.source.topic", b"t.queries"),
        ("pilot.source.partition", b"3"),
        ("pilot.source.offset", b"70000"),
        ("pilot.source.timestamp", b"-1"),
    )
