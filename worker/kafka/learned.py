"""What all workers have learned about each model, summed from the arms changelog."""

from __future__ import annotations

from worker import routing
from worker.core.shard import Shard, ShardError, ShardKey
from worker.core.statistics import ArmStatistics, StatisticsError
from worker.errors import OperationFailed
from worker.kafka.compacted import latest
from worker.settings import Settings


async def read_statistics(settings: Settings) -> dict[str, ArmStatistics]:
    """Sums over all partitions for the fingerprint in force, by the model that ran.

    Raises:
        OperationFailed: no broker, no such topic, or shards of another version.
        UsageError: the prior cannot be read.
    """
    fingerprint = routing.prior(settings).fingerprint
    topic = settings.changelog("arms")
    sums: dict[str, ArmStatistics] = {}
    for key, record in (await latest(settings, topic)).items():
        shard = ShardKey.unpack(key)
        if shard.fingerprint != fingerprint or record.value is None:
            continue
        try:
            statistics = Shard.unpack(record.value).statistics
        except (ShardError, StatisticsError) as error:
            raise OperationFailed(f"{topic}: {error}") from None
        if shard.model in sums:
            sums[shard.model] += statistics
        else:
            sums[shard.model] = statistics
    return sums
