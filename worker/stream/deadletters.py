"""Dead letters: the original record, untouched, with the reason in headers."""

from __future__ import annotations

from worker.errors import BadRecord
from worker.stream.batch import Headers, Output, SourceRecord


def dead_letter(topic: str, record: SourceRecord, reason: BadRecord) -> Output:
    """The record to send to the dead-letter topic, which has one partition."""
    origin = {
        "pilot.error.code": reason.code.value,
        "pilot.error.message": reason.message,
        "pilot.source.topic": record.topic,
        "pilot.source.partition": str(record.partition),
        "pilot.source.offset": str(record.offset),
        "pilot.source.timestamp": str(record.timestamp),
    }
    headers: Headers = (*record.headers, *((name, text.encode()) for name, text in origin.items()))
    return Output(topic, 0, record.key, record.value, headers)
