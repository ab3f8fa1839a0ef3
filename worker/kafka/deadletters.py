"""Dead letters as an operator meets them: what was set aside, why, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from worker.kafka.compacted import Record, read_to_end
from worker.settings import Settings

_CODE, _MESSAGE = "pilot.error.code", "pilot.error.message"
_TOPIC, _PARTITION = "pilot.source.topic", "pilot.source.partition"
_OFFSET, _TIMESTAMP = "pilot.source.offset", "pilot.source.timestamp"
ADDED = (_CODE, _MESSAGE, _TOPIC, _PARTITION, _OFFSET, _TIMESTAMP)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that was set aside. Times are ms since the epoch, `headers` the original ones."""

    offset: int
    timestamp: int
    code: str
    message: str
    topic: str
    partition: int
    source_offset: int
    source_timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def identity(self) -> bytes:
        """Names this dead letter for good: the timestamp tells offsets of a recreated topic apart."""
        return f"{self.offset}:{self.timestamp}".encode()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; None and the empty container mean all."""

    code: str | None = None
    since_ms: int | None = None
    offsets: Container[int] = ()

    def __contains__(self, letter: DeadLetter) -> bool:
        return (
            (self.code is None or letter.code == self.code)
            and (self.since_ms is None or letter.timestamp >= self.since_ms)
            and (not self.offsets or letter.offset in self.offsets)
        )


async def read(settings: Settings, selection: Selection, on_letter: Callable[[DeadLetter], None]) -> None:
    """Deliver the selected dead letters, oldest first; records that are none are skipped.

    Raises:
        OperationFailed: no broker, or no such topic.
    """

    def deliver(record: Record) -> None:
        letter = decode(record)
        if letter is not None and letter in selection:
            on_letter(letter)

    await read_to_end(settings, settings.topic("dead-letters"), deliver)


def decode(record: Record) -> DeadLetter | None:
    """A record of the dead-letter topic; None when the headers that say why are not there.

    Only the last six headers are ours: the original may have had some of the same names.
    """
    original, added = record.headers[: -len(ADDED)], record.headers[-len(ADDED) :]
    if tuple(name for name, _ in added) != ADDED:
        return None
    code, message, topic, *numbers = ((value or b"").decode(errors="replace") for _, value in added)
    try:
        partition, offset, timestamp = (int(number) for number in numbers)
    except ValueError:
        return None
    return DeadLetter(
        offset=record.offset,
        timestamp=record.timestamp,
        code=code,
        message=message,
        topic=topic,
        partition=partition,
        source_offset=offset,
        source_timestamp=timestamp,
        key=record.key,
        value=record.value,
        headers=original,
    )
