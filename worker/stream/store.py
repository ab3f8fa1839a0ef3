"""The store: what this worker has of the changelogs of its partitions, as the bytes that are in them.

It follows the changelogs and never leads: a write comes with the offset of the last
record it contains, and both are kept together or not at all. Recovery reads on from
there. What is held is held for an assignment: at each new one the broker is asked
what became of the changelogs, and whatever no longer follows its changelog is dropped
and read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from worker.kafka.logs import Log

NOTHING = -1  # the offset of a table that contains no record

Changes = Iterable[tuple[bytes, bytes | None]]  # key and value; None deletes


class Mark(NamedTuple):
    """How far a table follows its changelog: the topic's id and the offset of the last record.

    `at_ms` is a time, ms since the epoch, at which the whole partition was up to date; 0: it never was.
    """

    topic_id: str
    offset: int = NOTHING
    at_ms: int = 0

    def follows(self, log: Log) -> bool:
        """Whether everything up to the mark is in this very log, and everything after it can still be read."""
        if self.offset == NOTHING:
            return self.topic_id == log.topic_id
        return bool(self.topic_id) and self.topic_id == log.topic_id and log.beginning - 1 <= self.offset < log.end

    def moved(self, offset: int, at_ms: int) -> Mark:
        """The mark after more records; 0 leaves the time as it was."""
        return Mark(self.topic_id, offset, max(at_ms, self.at_ms))


class Store(Protocol):
    """The tables of the partitions that are held, by table name and partition."""

    def hold(self, logs: Mapping[int, Mapping[str, Log]]) -> None:
        """Hold exactly these partitions, given the changelog of each of their tables."""

    def offset(self, table: str, partition: int) -> int:
        """Offset of the last record that is contained; -1 if none is."""

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """The value of a key."""

    def write(self, table: str, partition: int, changes: Changes, offset: int, at_ms: int) -> None:
        """Take over records, the last of which has this offset; ignored if the partition is not held.

        `at_ms` is a time at which this worker surely was the only writer, 0 for what recovery reads.
        """

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all partitions held. Of what changes meanwhile either state may be seen."""

    def keys(self, table: str) -> Iterator[bytes]:
        """Keys of all partitions held, as `items`."""

    def size(self, table: str) -> int:
        """How many keys there are, about. Any thread."""


class MemoryStore:
    """Tables in dictionaries; a new process begins with nothing."""

    def __init__(self, tables: Sequence[str]) -> None:
        self._tables: dict[str, dict[int, dict[bytes, bytes]]] = {table: {} for table in tables}
        self._marks: dict[tuple[str, int], Mark] = {}

    def hold(self, logs: Mapping[int, Mapping[str, Log]]) -> None:
        """See `Store`."""
        for table, partitions in self._tables.items():
            for partition in partitions.keys() - logs.keys():
                del partitions[partition], self._marks[table, partition]
            for partition, found in logs.items():
                mark = self._marks.get((table, partition))
                if mark is None or not mark.follows(found[table]):
                    partitions[partition] = {}
                    self._marks[table, partition] = Mark(found[table].topic_id)

    def offset(self, table: str, partition: int) -> int:
        """See `Store`."""
        mark = self._marks.get((table, partition))
        return NOTHING if mark is None else mark.offset

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """See `Store`."""
        found = self._tables[table].get(partition)
        return None if found is None else found.get(key)

    def write(self, table: str, partition: int, changes: Changes, offset: int, at_ms: int) -> None:
        """See `Store`."""
        held = self._tables[table].get(partition)
        if held is None:
            return
        for key, value in changes:
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
        self._marks[table, partition] = self._marks[table, partition].moved(offset, at_ms)

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """See `Store`."""
        for partition in list(self._tables[table].values()):
            yield from list(partition.items())

    def keys(self, table: str) -> Iterator[bytes]:
        """See `Store`."""
        for partition in list(self._tables[table].values()):
            yield from list(partition)

    def size(self, table: str) -> int:
        """See `Store`."""
        return sum(len(partition) for partition in list(self._tables[table].values()))
