"""The faults of Faust and aiokafka that the worker works around: each is shown, so an upgrade tells which are gone.

When one of these fails, upstream has changed: look whether its work-around may go.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import InvalidProducerEpoch
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from intervaltree import IntervalTree

from worker.stream.commits import ConsumerThread
from worker.stream.tables import Tables

PLACE = TP("t.queries", 0)


def faust_s_commit(*acked: int, committed: int | None) -> int | None:
    """The offset that Faust would commit next."""
    consumer: Any = SimpleNamespace(
        _acked={PLACE: list(acked)}, _acked_index=defaultdict(set), _gap={PLACE: IntervalTree()},
        _committed_offset={PLACE: committed},
    )  # fmt: skip
    offset: int | None = driver.Consumer._new_offset(consumer, PLACE)
    return offset


@pytest.mark.parametrize(("committed", "lost"), [(10, 14), (None, 14)])
def test_faust_commits_over_an_event_in_flight(committed: int | None, lost: int) -> None:
    """With 10 in flight and 11 to 13 acknowledged Faust commits 14 (faust-streaming/faust#606): our own committer."""
    assert faust_s_commit(11, 12, 13, committed=committed) == lost


def test_faust_crawls_after_duplicates() -> None:
    """Numbers acknowledged twice end a run, so each commit advances by one (#596, #175): our own committer."""
    assert faust_s_commit(10, 10, 11, 11, 12, 12, committed=10) == 11


def test_faust_s_fetches_wait_too_long() -> None:
    """A fetch that waits leaves out who has records still: with Faust's 1.5 s a backlog stood still."""
    assert "fetch_max_wait_ms=1500" in inspect.getsource(driver.AIOKafkaConsumerThread._create_worker_consumer)
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in inspect.getsource(AIOKafkaConsumer.start)
    made: Any = SimpleNamespace(_fetch_max_wait_ms=1500)
    thread: Any = ConsumerThread.__new__(ConsumerThread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: made)
        assert thread._create_worker_consumer(None)._fetch_max_wait_ms <= 100


def test_faust_reads_aborted_records() -> None:
    """At least once means read_uncommitted to Faust: the consumer thread sets the level after it is made."""
    upstream = inspect.getsource(driver.AIOKafkaConsumerThread._create_worker_consumer)
    assert 'isolation_level: str = "read_uncommitted"' in upstream
    made: Any = SimpleNamespace(_isolation_level="read_uncommitted")
    thread: Any = ConsumerThread.__new__(ConsumerThread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: made)
        assert thread._create_worker_consumer(None)._isolation_level == "read_committed"


def test_aiokafka_dates_a_heartbeat_by_its_answer() -> None:
    """A late answer looks like a fresh sign of life: the lease dates it by the sending."""
    routine = inspect.getsource(GroupCoordinator._heartbeat_routine)
    _, _, after = routine.partition("success = await self._do_heartbeat()")
    assert "last_ok_heartbeat = time.monotonic()" in after


async def test_faust_s_windowed_changelog_deletes(tables: Tables) -> None:
    """Faust would let the changelog of a windowed table delete money: `worker.kafka.topics` creates it beforehand."""
    _, spend, _ = tables.all
    assert spend.changelog_topic.deleting


def test_refused_epoch_is_not_retried() -> None:
    """A fenced write fails at once, so that the worker can leave: `fencing`."""
    assert not InvalidProducerEpoch.retriable
