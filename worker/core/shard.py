"""Shards: what one partition's feedback contributed to one arm, with the fences of both topics.

Every shard has one writer, the owner of its partition; an arm is the prior plus
the sum of its shards. The key is partition, fingerprint and model: statistics of
two projections never mix.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.core.fence import Event, Fence
from worker.core.learn import Lesson, learn
from worker.core.statistics import ArmStatistics

_HEADER = struct.Struct("<Bqq")
_VERSION = 1
_SEPARATOR = "\0"  # ids contain no control characters


class ShardError(ValueError):
    """A stored shard that this version cannot read. Operator action: upgrade the worker."""


class ShardKey(NamedTuple):
    """Where a shard belongs."""

    partition: int
    fingerprint: str
    model: str

    def pack(self) -> bytes:
        """The key of the changelog record."""
        return _SEPARATOR.join((str(self.partition), self.fingerprint, self.model)).encode()

    @classmethod
    def unpack(cls, key: bytes) -> ShardKey:
        """Read what `pack` wrote."""
        partition, fingerprint, model = key.decode().split(_SEPARATOR)
        return cls(int(partition), fingerprint, model)


@dataclass(slots=True)
class Shard:
    """One partition's sums for one arm. The sums change in place: they are large."""

    statistics: ArmStatistics
    fence: Fence = field(default_factory=Fence)

    def apply(self, event: Event, lesson: Lesson) -> bool:
        """Learn everything that one event says about this arm, once; whether it was new."""
        if self.fence.contains(event):
            return False
        learn(self.statistics, lesson)
        self.fence = self.fence.raised(event)
        return True

    def pack(self) -> bytes:
        """The value of the changelog record."""
        return _HEADER.pack(_VERSION, self.fence.query, self.fence.feedback) + self.statistics.pack()

    @classmethod
    def unpack(cls, value: bytes) -> Shard:
        """Read what `pack` wrote.

        Raises:
            ShardError: another version; StatisticsError: damaged sums.
        """
        version, query, feedback = _HEADER.unpack_from(value)
        if version != _VERSION:
            raise ShardError(f"arm shard of version {version}, this worker reads {_VERSION}")
        return cls(ArmStatistics.unpack(value[_HEADER.size :]), Fence(query, feedback))
