"""The state of an assignment in memory: what the agents read and write at once.

Reads fall through to the store; writes stay here until the changelog has them.
Nothing is evicted that is not yet acknowledged, so a reader always sees its own
worker's latest write.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_LIMIT = 20_000  # entries beyond it are dropped once acknowledged; the store still has them


class SpendKey(NamedTuple):
    """One user's budget window: its start in seconds since the epoch, its length if it is not the present one."""

    user_id: str
    window: int
    length: int = 0


class Cache(Generic[K, V]):
    """Values by key, each with the number of the last batch that wrote it."""

    def __init__(self, load: Callable[[int, K], V | None], limit: int = _LIMIT) -> None:
        self._load = load
        self._limit = limit
        self._entries: dict[K, tuple[V | None, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, partition: int, key: K) -> V | None:
        """The value as the agents see it now; None if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = (self._load(partition, key), 0)
        return entry[0]

    def written_since(self, batch: int) -> list[tuple[K, V | None]]:
        """What this batch and later ones wrote, latest first; what was only read is left out."""
        found: list[tuple[K, V | None]] = []
        for key, (value, number) in reversed(self._entries.items()):
            if number >= batch:
                found.append((key, value))
            elif number:  # the latest write is the last in order, so all before are older
                break
        return found

    def put(self, key: K, value: V | None, batch: int) -> None:
        """Write a value (None: delete) that leaves with this batch."""
        self._entries.pop(key, None)  # the latest write is the last in order
        self._entries[key] = (value, batch)

    def evict(self, acknowledged: int) -> None:
        """Drop the oldest entries above the limit, as far as their batch is acknowledged."""
        surplus = len(self._entries) - self._limit
        if surplus <= 0:
            return
        old = [
            key
            for _, (key, (_, batch)) in zip(range(2 * surplus), self._entries.items(), strict=False)
            if batch <= acknowledged
        ]
        for key in old:
            del self._entries[key]


class State:
    """The three tables of the lanes of one assignment."""

    def __init__(
        self,
        pending: Callable[[int, bytes], Pending | None],
        spend: Callable[[int, SpendKey], Spend | None],
        shards: Callable[[int, ShardKey], Shard | None],
    ) -> None:
        self.pending: Cache[bytes, Pending] = Cache(pending)
        self.spend: Cache[SpendKey, Spend] = Cache(spend)
        self.shards: Cache[ShardKey, Shard] = Cache(shards)

    def evict(self, acknowledged: int) -> None:
        """Make room; see `Cache.evict`. Shards are few and stay."""
        self.pending.evict(acknowledged)
        self.spend.evict(acknowledged)
