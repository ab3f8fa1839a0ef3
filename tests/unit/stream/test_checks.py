"""What a source record must be before it is processed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.stream.doubles import PARTITIONS
from worker.errors import BadRecord, DeadLetterCode
from worker.events import Feedback
from worker.kafka.partitioning import partition_of
from worker.stream.batch import Headers, SourceRecord
from worker.stream.checks import MAX_FEEDBACK_HEADER_BYTES, check_embedding, check_headers, check_placement

EVENT = Feedback(query_id="q", user_id="usér", reward=1.0)
KEY = "usér".encode()
LANE = partition_of(KEY, PARTITIONS)


def record(key: bytes | None = KEY, partition: int = LANE, headers: Headers = ()) -> SourceRecord:
    return SourceRecord("t.feedback", partition, 0, 0, key, b"{}", headers)


def test_key_on_its_partition_is_accepted() -> None:
    """The raw UTF-8 user id on the partition that murmur2 says."""
    check_placement(record(), EVENT, PARTITIONS)


@pytest.mark.parametrize("key", [None, b"", b"other", b'"us\xc3\xa9r"', "usér".encode("latin-1")])
def test_other_keys_are_refused(key: bytes | None) -> None:
    """A missing key, another user, JSON quotes or another encoding is invalid_key, before the partition."""
    with pytest.raises(BadRecord) as caught:
        check_placement(record(key, (LANE + 1) % PARTITIONS), EVENT, PARTITIONS)
    assert caught.value.code is DeadLetterCode.INVALID_KEY


def test_wrong_partition_names_the_client_setting() -> None:
    """A record elsewhere names where it lies, where it belongs, and what the producer must set."""
    with pytest.raises(BadRecord) as caught:
        check_placement(record(partition=(LANE + 1) % PARTITIONS), EVENT, PARTITIONS)
    assert caught.value.code is DeadLetterCode.WRONG_PARTITION
    assert f"partition {(LANE + 1) % PARTITIONS}, its key belongs to {LANE}" in caught.value.message
    assert "partitioner=murmur2_random" in caught.value.message


def test_embedding_is_used_as_it_is() -> None:
    """Numbers of the right length come back as float64, not normalised."""
    found = check_embedding([3.0, 0.0, -4.0], 3)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [3.0, 0.0, -4.0])


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        ([1.0], "has 1 numbers, the encoder's have 3"),
        ([], "has 0 numbers"),
        ([0.0, 0.0, -0.0], "is zero"),
        ([1.0, float("inf"), 0.0], "not finite"),
        ([1.0, float("nan"), 0.0], "not finite"),
        ([float("inf"), float("-inf"), 0.0], "not finite"),
        ([1e300, 1e300, 0.0], "not finite"),
    ],
)
def test_unusable_embeddings_are_refused(embedding: list[float], reason: str) -> None:
    """Wrong length, zero, infinite, or too large to have a length."""
    with pytest.raises(BadRecord, match=reason) as caught:
        check_embedding(embedding, 3)
    assert caught.value.code is DeadLetterCode.INVALID_EMBEDDING


def test_feedback_headers_are_limited() -> None:
    """Feedback may wait in state with its headers, so their size has a limit; null values count as nothing."""
    check_headers(record(headers=(("h", b"x" * (MAX_FEEDBACK_HEADER_BYTES - 6)), ("empty", None))))
    with pytest.raises(BadRecord, match="headers: 65537 bytes, at most 65536") as caught:
        check_headers(record(headers=(("h", b"x" * MAX_FEEDBACK_HEADER_BYTES),)))
    assert caught.value.code is DeadLetterCode.INVALID_EVENT
