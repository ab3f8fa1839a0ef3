"""What every source record must be before it is processed, in the order of the dead-letter codes."""

from __future__ import annotations

import math
import struct

import numpy as np

from worker.core.verdict import FloatArray
from worker.errors import BadRecord, DeadLetterCode
from worker.events import Feedback, Query
from worker.kafka.partitioning import partition_of
from worker.stream.batch import SourceRecord

MAX_FEEDBACK_HEADER_BYTES = 64 * 1024


def check_headers(record: SourceRecord) -> None:
    """Feedback may have to wait in state with its headers, eight records to a changelog record.

    Raises:
        BadRecord: `invalid_event`.
    """
    if not record.headers:
        return
    size = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
    if size > MAX_FEEDBACK_HEADER_BYTES:
        message = f"headers: {size} bytes, at most {MAX_FEEDBACK_HEADER_BYTES}"
        raise BadRecord(DeadLetterCode.INVALID_EVENT, message)


def check_placement(record: SourceRecord, event: Query | Feedback, partitions: int) -> None:
    """The key must be the user, and lie on the partition where the user's budget lives.

    Raises:
        BadRecord: `invalid_key` or `wrong_partition`.
    """
    key = event.user_id.encode()
    if record.key != key:
        found = "missing" if record.key is None else "another value"
        raise BadRecord(DeadLetterCode.INVALID_KEY, f"the key must be the raw UTF-8 user_id, it is {found}")
    expected = partition_of(key, partitions)
    if record.partition != expected:
        raise BadRecord(
            DeadLetterCode.WRONG_PARTITION,
            f"the record lies on partition {record.partition}, its key belongs to {expected}: the producer must use "
            "murmur2 of the key (librdkafka: partitioner=murmur2_random)",
        )


def check_embedding(embedding: list[float], dimension: int) -> FloatArray:
    """The caller's embedding as a read-only array of shape (dimension,).

    Raises:
        BadRecord: `invalid_embedding`: wrong length, zero or not finite.
    """
    if len(embedding) != dimension:
        message = f"the embedding has {len(embedding)} numbers, the encoder's have {dimension}"
        raise BadRecord(DeadLetterCode.INVALID_EMBEDDING, message)
    length = math.hypot(*embedding)
    square = length * length  # what a norm comes from: it must neither overflow nor vanish
    if not math.isfinite(square):
        raise BadRecord(DeadLetterCode.INVALID_EMBEDDING, "the embedding is not finite")
    if square == 0:
        raise BadRecord(DeadLetterCode.INVALID_EMBEDDING, "the embedding is zero")
    # A third of the time that `np.array` takes for a list.
    return np.frombuffer(struct.pack(f"{dimension}d", *embedding), dtype=np.float64)
