"""The replica: all shards of one fingerprint, summed, and when the router gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.core.lives import CONTEXT, feedback
from tests.unit.stream.doubles import Notebook
from worker.core.learn import Lesson
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.kafka.compacted import Record
from worker.observe.records import ModelLearned
from worker.settings import Settings
from worker.stream import replica as module
from worker.stream.replica import FEW_REWARDS, REFRESH_EVERY, REFRESH_S, Replica


def record(partition: int, rewards: int, model: str = "small", fingerprint: str = "fp") -> Record:
    """The changelog record of a shard that has learned so many rewards of 0.5."""
    shard = Shard(ArmStatistics.zeros(3))
    for offset in range(rewards):
        shard.apply(feedback(offset), Lesson(CONTEXT, reward=0.5))
    return Record(partition, 0, 0, ShardKey(partition, fingerprint, model).pack(), shard.pack())


class Mirror:
    """A replica, its clock, and what the router was given."""

    def __init__(self, settings: Settings, clock: Any, notebook: Notebook) -> None:
        self.clock, self.given = clock, []
        self.replica = Replica(settings, "fp", self.given.append, notebook)  # type: ignore[attr-defined]

    def due(self, seconds: float = 0.0) -> bool:
        self.clock.now += seconds
        return self.replica._due(self.clock.now)


@pytest.fixture
async def mirror(configured: Settings, clock: Callable[..., Any], notebook: Notebook) -> Mirror:
    found = Mirror(configured, clock(module), notebook)
    found.replica.hand_over()
    return found


async def test_arm_is_the_sum_of_its_shards(mirror: Mirror) -> None:
    """Each partition contributes its shard; models stay apart."""
    for one in (record(0, 2), record(1, 3), record(1, 4, "large")):
        mirror.replica.apply(one)
    totals = mirror.replica.totals()
    assert {model: found.reward.n for model, found in totals.items()} == {"small": 5, "large": 4}
    np.testing.assert_allclose(totals["small"].reward.b, 2.5 * CONTEXT)


async def test_newer_record_of_a_shard_replaces_the_older(mirror: Mirror) -> None:
    """The changelog holds whole shards, not differences."""
    mirror.replica.apply(record(0, 2))
    mirror.replica.apply(record(0, 7))
    assert mirror.replica.totals()["small"].reward.n == 7


async def test_totals_are_copies(mirror: Mirror) -> None:
    """Whoever changes the totals changes no shard."""
    mirror.replica.apply(record(0, 2))
    mirror.replica.totals()["small"].reward.A += 1.0
    assert mirror.replica.totals()["small"].reward.A[0, 0] == pytest.approx(2 * CONTEXT[0] ** 2)


async def test_other_fingerprints_do_not_mix(mirror: Mirror) -> None:
    """Statistics of another projection are not even looked into."""
    mirror.replica.apply(Record(0, 0, 0, ShardKey(0, "other", "small").pack(), b"not for us"))
    assert mirror.replica.totals() == {}
    assert not mirror.due(10)


async def test_tombstone_removes_a_shard(mirror: Mirror) -> None:
    """A deleted shard no longer counts."""
    mirror.replica.apply(record(0, 2))
    one = record(0, 2)
    mirror.replica.apply(Record(0, 1, 0, one.key, None))
    assert mirror.replica.totals() == {}


async def test_few_rewards_refresh_every_so_many(mirror: Mirror) -> None:
    """While every reward may change the choice the router is refreshed after some of them, at once."""
    mirror.replica.apply(record(0, REFRESH_EVERY - 1))
    assert not mirror.due()
    mirror.replica.apply(record(0, REFRESH_EVERY))
    assert mirror.due()


async def test_only_new_rewards_count(mirror: Mirror) -> None:
    """A shard that is written again adds what it learned since, not all of it."""
    mirror.replica.apply(record(0, REFRESH_EVERY - 1))
    mirror.replica.hand_over()
    mirror.replica.apply(record(0, REFRESH_EVERY))
    assert not mirror.due()


async def test_many_rewards_refresh_at_most_once_a_second(mirror: Mirror) -> None:
    """Later a refresh waits for its time, however much has come."""
    mirror.replica.apply(record(0, FEW_REWARDS))
    assert not mirror.due(REFRESH_S / 2)
    assert mirror.due(REFRESH_S)


async def test_rest_is_refreshed_in_time(mirror: Mirror) -> None:
    """Fewer new rewards than it takes still arrive after a second, and nothing new never refreshes."""
    mirror.replica.apply(record(0, 1))
    assert mirror.due(REFRESH_S)
    mirror.replica.hand_over()
    assert not mirror.due(100)


async def test_hand_over_gives_totals_and_reports(mirror: Mirror, notebook: Notebook) -> None:
    """The router gets the sums by model, and the number of rewards of each is observed with their sum."""
    mirror.replica.apply(record(0, 2))
    mirror.replica.hand_over()
    assert mirror.given[-1]["small"].reward.n == 2
    assert notebook.records == [ModelLearned("small", 2, reward_sum=1.0)]
