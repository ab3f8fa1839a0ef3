"""The effects of one event beyond its pending record: on the user's window and on the arms' shards."""

from __future__ import annotations

from worker.core import ledger
from worker.core.fence import Event, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Pending, lessons
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.stream.batch import Journal
from worker.stream.state import SpendKey


def apply(
    journal: Journal, partition: int, user_id: str, pending: Pending, event: Event, *, rewarding: bool = True
) -> Spend:
    """Write what the arbiter says this event contributes, unless it is contained; the user's window after it.

    `rewarding` False: the query belongs to the traffic whose rewards are not learned (preset `paper`).
    """
    _teach(journal, partition, pending, event, rewarding=rewarding)
    key = SpendKey(user_id, pending.window, pending.window_s)
    before = journal.state.spend.get(partition, key) or Spend()
    effect = ledger.apply_query if event.source is Source.QUERY else ledger.apply_feedback
    after = effect(before, pending, event)
    if after is not before:
        journal.put_spend(partition, key, after)
    return after


def _teach(journal: Journal, partition: int, pending: Pending, event: Event, *, rewarding: bool) -> None:
    if pending.choice is None:
        return
    for model, lesson in lessons(pending, event):
        key = ShardKey(partition, pending.choice.fingerprint, model)
        shard = journal.state.shards.get(partition, key) or Shard(ArmStatistics.zeros(len(pending.choice.context)))
        if shard.apply(event, lesson if rewarding else lesson._replace(reward=None)):
            journal.put_shard(key, shard)
