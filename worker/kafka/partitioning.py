"""Which partition a key belongs to: murmur2 of the raw UTF-8 key, as Java's default partitioner (KIP-480) does."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=100_000)  # the hash is pure Python, and users come again
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among so many."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
