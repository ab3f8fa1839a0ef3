"""Shards: what one partition's feedback contributed to one arm."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.core.lives import CONTEXT, FINGERPRINT, feedback, query
from worker.core.fence import Fence
from worker.core.learn import Lesson
from worker.core.shard import Shard, ShardError, ShardKey
from worker.core.statistics import ArmStatistics, StatisticsError


def shard() -> Shard:
    return Shard(ArmStatistics.zeros(3))


def test_lesson_is_learned_once() -> None:
    """The same event teaches the sums once, however often it is replayed."""
    learned = shard()
    assert learned.apply(feedback(), Lesson(CONTEXT, reward=0.5))
    assert not learned.apply(feedback(), Lesson(CONTEXT, reward=0.5))
    assert (learned.statistics.reward.n, learned.statistics.reward.total) == (1, 0.5)
    assert learned.fence == Fence(feedback=7)


def test_topics_teach_apart() -> None:
    """A query that brings early feedback teaches although later feedback was learned already."""
    learned = shard()
    learned.apply(feedback(100), Lesson(CONTEXT, reward=0.5))
    assert learned.apply(query(3), Lesson(CONTEXT, reward=0.25))
    assert learned.statistics.reward.n == 2


def test_packed_shard_comes_back() -> None:
    """Sums and fences survive the changelog exactly."""
    learned = shard()
    learned.apply(feedback(9), Lesson(CONTEXT, reward=0.1, output_tokens=123, cost_nanos=5, predicted_nanos=6))
    learned.apply(query(4), Lesson(CONTEXT, reward=0.2, failed=True))
    restored = Shard.unpack(learned.pack())
    assert restored.fence == Fence(query=4, feedback=9)
    assert restored.pack() == learned.pack()
    np.testing.assert_array_equal(restored.statistics.reward.b, learned.statistics.reward.b)


def test_other_version_is_refused() -> None:
    """A shard of a later version is an error that names both versions, never a wrong sum."""
    with pytest.raises(ShardError, match="version 9, this worker reads 1"):
        Shard.unpack(b"\x09" + shard().pack()[1:])


def test_damaged_sums_are_refused() -> None:
    """One changed byte in the sums is an error."""
    packed = bytearray(shard().pack())
    packed[-1] ^= 1
    with pytest.raises(StatisticsError, match="damaged"):
        Shard.unpack(bytes(packed))


def test_key_comes_back() -> None:
    """Partition, fingerprint and model are read back as they were written, whatever the model is called."""
    for model in ("gpt-4", "a/b:c|d,e", "模型 🚀", " "):
        key = ShardKey(12, FINGERPRINT, model)
        assert ShardKey.unpack(key.pack()) == key
