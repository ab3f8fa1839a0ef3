"""The replica: every worker's read-only copy of all shards, from the compacted `arms` changelog.

An arm is the prior plus the sum of its shards, so what one worker learned steers
all others as soon as its shard is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.kafka.compacted import Follower, Record
from worker.observe.records import ModelLearned, Observer
from worker.settings import Settings

FEW_REWARDS = 1_000  # while there are fewer, each may change the choice
REFRESH_EVERY = 25
REFRESH_S = 1.0
_POLL_S = 0.05

Refresh = Callable[[Mapping[str, ArmStatistics]], None]


class Replica:
    """Sums of one fingerprint over all partitions, handed to the router when they have changed."""

    def __init__(self, settings: Settings, fingerprint: str, refresh: Refresh, observer: Observer) -> None:
        self.follower = Follower(settings, settings.changelog("arms"), self.apply)
        self._fingerprint = fingerprint
        self._refresh = refresh
        self._observer = observer
        self._shards: dict[ShardKey, ArmStatistics] = {}
        self._changed = False
        self._rewards = 0
        self._refreshed_rewards = 0
        self._refreshed_at = 0.0

    def apply(self, record: Record) -> None:
        """Take over one record of the changelog; statistics of other fingerprints do not mix."""
        key = ShardKey.unpack(record.key or b"")
        if key.fingerprint != self._fingerprint:
            return
        before = self._shards.pop(key, None)
        self._rewards -= before.reward.n if before is not None else 0
        if record.value is not None:
            statistics = Shard.unpack(record.value).statistics
            self._shards[key] = statistics
            self._rewards += statistics.reward.n
        self._changed = True

    @property
    def shards(self) -> int:
        """How many shards are known."""
        return len(self._shards)

    def totals(self) -> dict[str, ArmStatistics]:
        """The sums of each model over its shards."""
        totals: dict[str, ArmStatistics] = {}
        for key, statistics in self._shards.items():
            if key.model in totals:
                totals[key.model] += statistics
            else:
                totals[key.model] = statistics.copy()
        return totals

    async def run(self) -> None:
        """Refresh the router once everything that was written is read, then whenever it is due."""
        await self.follower.caught_up.wait()
        while True:
            if self._due(time.monotonic()):
                self.hand_over()
            await asyncio.sleep(_POLL_S)

    def _due(self, now: float) -> bool:
        if not self._changed:
            return False
        few = self._rewards < FEW_REWARDS and self._rewards - self._refreshed_rewards >= REFRESH_EVERY
        return few or now - self._refreshed_at >= REFRESH_S

    def hand_over(self) -> None:
        """Give the router the totals as they are now."""
        totals = self.totals()
        self._refresh(totals)
        self._changed = False
        self._refreshed_rewards, self._refreshed_at = self._rewards, time.monotonic()
        for model, statistics in totals.items():
            self._observer.observe(ModelLearned(model, statistics.reward.n, statistics.reward.total))
