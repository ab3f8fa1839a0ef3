"""The private names of Faust, mode and aiokafka that the stream shell relies on: an upgrade must fail here first."""

from __future__ import annotations

import inspect
import os
from importlib.metadata import version
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState, TopicPartitionState
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.producer import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord
from faust.stores.memory import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.tables.table import Table
from faust.transport.drivers import aiokafka as driver
from mode.threads import ServiceThread
from mode.utils.queues import FlowControlEvent

from tests.unit.stream.doubles import PARTITIONS, assignment
from worker.errors import OperationFailed
from worker.settings import Settings
from worker.stream import app, compat


@pytest.mark.skipif(compat.UNCHECKED in os.environ, reason="other versions are being tried")
@pytest.mark.parametrize("package", compat.KNOWN_VERSIONS)
def test_installed_version_is_the_known_one(package: str) -> None:
    """The pinned version is the one whose private parts were examined."""
    assert version(package) == compat.KNOWN_VERSIONS[package]


def test_other_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not start on a version that nobody examined, and says which."""
    monkeypatch.setitem(compat.KNOWN_VERSIONS, "aiokafka", "0.0.1")
    monkeypatch.delenv(compat.UNCHECKED, raising=False)
    with pytest.raises(OperationFailed, match=r"aiokafka \S+ is installed, this worker was built for 0\.0\.1"):
        compat.check_versions()


def test_other_version_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants to know what an upgrade breaks can have the worker start on it."""
    monkeypatch.setitem(compat.KNOWN_VERSIONS, "aiokafka", "0.0.1")
    monkeypatch.setenv(compat.UNCHECKED, "1")
    compat.check_versions()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (FetchResult, "getall"),
        (FetchResult, "_update_position"),
        (Fetcher, "seek_to"),
        (GroupCoordinator, "_do_heartbeat"),
        (GroupCoordinator, "_do_commit_offsets"),
        (GroupCoordinator, "ensure_coordinator_known"),
        (Assignment, "active"),
        (Assignment, "state_value"),
        (Assignment, "_unassign"),
        (SubscriptionState, "subscription"),
        (SubscriptionState, "reassignment_in_progress"),
        (AIOKafkaProducer, "create_batch"),
        (MessageBatch, "set_producer_state"),
        (MessageBatch, "record_count"),
        (AIOKafkaProducer, "send_batch"),
        (driver.AIOKafkaConsumerThread, "_create_worker_consumer"),
        (driver.AIOKafkaConsumerThread, "on_partitions_assigned"),
        (driver.Consumer, "_new_consumer_thread"),
        (TableManager, "_recovery"),
        (Recovery, "active_remaining"),
        (driver.Consumer, "_to_message"),
        (driver.Consumer, "_drain_messages"),
        (driver.Consumer, "ack"),
        (driver.Consumer, "commit"),
        (driver.Consumer, "force_commit"),
        (driver.Consumer, "_wait_next_records"),
        (driver.Consumer, "on_buffer_full"),
        (driver.Consumer, "on_buffer_drop"),
        (driver.Consumer, "consumer_stopped_errors"),
        (driver.Producer, "_settings_extra"),
        (driver.Producer, "_producer"),
        (driver.Transport, "Consumer"),
        (Table, "_window_ranges"),
        (Store, "persisted_offset"),
        (FlowControlEvent, "resume"),
        (FlowControlEvent, "is_active"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_name_exists(owner: type, name: str) -> None:
    """The name that the worker overrides, patches or calls is still there."""
    assert hasattr(owner, name)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (GroupCoordinator, ["self._commit_lock", "self.generation"]),
        (AIOKafkaConsumer, ["self._coordinator", "self._subscription", "self._fetcher", "self._isolation_level"]),
        (Fetcher, ["self._records"]),
        (FetchResult, ["self._assignment", "self._topic_partition"]),
        (AIOKafkaProducer, ["self._txn_manager"]),
        (
            driver.Consumer.__mro__[2],
            ["self._buffered_partitions", "self._unacked_messages", "self._waiting_for_ack", "flow_active"],
        ),
        (driver.AIOKafkaConsumerThread, ["self._consumer", "self.tp_last_committed_at"]),
        (ServiceThread, ["self.thread_loop"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_attribute_is_set(owner: type, names: list[str]) -> None:
    """The attribute that the worker reads is still assigned in its class."""
    source = inspect.getsource(owner)
    assert [name for name in names if name not in source] == []


async def test_assignment_keeps_its_states() -> None:
    """The source position hangs on the state of a partition, which lives and dies with the assignment."""
    owner = assignment()
    (tp, *_) = owner.tps
    found = owner._tp_state[tp]
    assert isinstance(found, TopicPartitionState)
    assert (found._assignment, found._position) == (owner, None)
    found.source_position = "attached"
    assert owner.state_value(tp) is found


def test_records_take_attributes() -> None:
    """The hook gives each record its predecessor and its position."""
    record: Any = ConsumerRecord("t", 0, 1, 2, 0, None, None, None, -1, -1, ())
    record.previous_offset, record.source_position = 0, "here"
    assert (record.previous_offset, record.source_position) == (0, "here")


def test_isolation_level_is_read_at_start() -> None:
    """The consumer takes `_isolation_level` when it starts its fetcher, after the worker has set it."""
    assert "isolation_level=self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)


def test_heartbeat_tells_whether_it_was_answered() -> None:
    """The lease is renewed by what `_do_heartbeat` returns."""
    assert inspect.iscoroutinefunction(GroupCoordinator._do_heartbeat)
    assert "return True" in inspect.getsource(GroupCoordinator._do_heartbeat)


def test_accumulator_makes_batches_by_the_module_s_name() -> None:
    """Replacing `MessageBatch` in the module replaces the batches, whose producer state is set when they leave."""
    assert "= MessageBatch(" in inspect.getsource(MessageAccumulator._append_batch)
    assert "batch.set_producer_state(" in inspect.getsource(MessageAccumulator._pop_batch)


async def test_producer_settings_reach_the_client(configured: Settings) -> None:
    """`_settings_extra` is merged into what the producer is made with: that is how it becomes idempotent."""
    assert "**self._settings_extra()" in inspect.getsource(driver.Producer)
    assert "enable_idempotence" in inspect.signature(AIOKafkaProducer.__init__).parameters
    assert app._faust_app(configured, PARTITIONS).conf.producer_linger == 0


def test_recovery_reads_on_from_what_the_store_says() -> None:
    """Faust asks a table for its offset at every rebalance, and goes by its own memory if there is no answer."""
    assert "persisted_offset = table.persisted_offset(tp)" in inspect.getsource(Recovery._add)
    assert "if persisted_offset is not None" in inspect.getsource(Recovery._add)
    assert "self._data" in inspect.getsource(Table.data.fget)
