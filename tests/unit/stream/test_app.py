"""Wiring: what Faust is told, and the check of an assignment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.structs import TopicPartition

from tests.unit.stream.doubles import PARTITIONS, logs, settings
from worker.errors import UsageError
from worker.settings import Settings
from worker.stream import app, watchdog
from worker.stream.store import MemoryStore


async def test_faust_is_configured_for_our_delivery(configured: Settings) -> None:
    """At least once, no standbys, no commits of its own, static membership, nothing listening."""
    conf = app._faust_app(configured, PARTITIONS).conf
    assert (conf.id, conf.topic_partitions, conf.table_standby_replicas) == ("t", PARTITIONS, 0)
    assert str(conf.processing_guarantee) == "ProcessingGuarantee.AT_LEAST_ONCE"
    assert (conf.stream_wait_empty, conf.topic_disable_leader, conf.web_enabled) == (True, True, False)
    assert conf.broker_commit_every >= 10**9
    assert conf.consumer_group_instance_id == "w"
    assert conf.consumer_auto_offset_reset == "earliest"


async def test_several_brokers_become_several_addresses(tmp_path: Path) -> None:
    """A list of brokers reaches Faust as one."""
    many = settings(data_dir=tmp_path, bootstrap_servers="a:1, b:2")
    assert [str(url) for url in app._faust_app(many, PARTITIONS).conf.broker] == ["kafka://a:1", "kafka://b:2"]


async def test_two_workers_do_not_share_a_folder(tmp_path: Path) -> None:
    """Local state lies under prefix and worker id."""
    app._faust_app(settings(data_dir=tmp_path, worker_id="one"), PARTITIONS)
    app._faust_app(settings(data_dir=tmp_path, worker_id="two"), PARTITIONS)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "t").iterdir()) == ["t/one", "t/two"]


def test_what_waited_for_the_encoder_is_given_time_after_it_too() -> None:
    """The first text moves its partition only after the weights are loaded, however long that took."""
    now, loading = 0.0, True
    patience = app._patience(lambda: loading, lambda: now)
    assert patience() == app.START_S
    now, loading = 30.0, False
    assert patience() == watchdog.STALL_S, "nobody asked in between"
    loading = True
    patience()
    now, loading = 30.0 + watchdog.STALL_S / 2, False
    assert patience() == app.START_S
    now += watchdog.STALL_S
    assert patience() == watchdog.STALL_S


async def test_security_settings_reach_faust(tmp_path: Path) -> None:
    """Faust's clients log in as all others do."""
    secured = settings(
        data_dir=tmp_path, security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-512", sasl_username="ann",
        sasl_password="x",
    )  # fmt: skip
    given = app._faust_app(secured, PARTITIONS).conf.broker_credentials
    assert (given.username, given.password, given.mechanism.value) == ("ann", "x", "SCRAM-SHA-512")
    assert app._faust_app(settings(data_dir=tmp_path), PARTITIONS).conf.broker_credentials is None


def test_equal_partitions_of_all_topics_are_accepted(configured: Settings) -> None:
    """Both sources and all changelogs with the same numbers, or nothing at all, is a good assignment."""
    topics = ("t.queries", "t.feedback", "t-pending-changelog")
    app._check_copartitioning([TopicPartition(topic, number) for topic in topics for number in (1, 3)], configured, 4)
    app._check_copartitioning([], configured, 4)


def test_split_topics_end_the_process() -> None:
    """A topic whose partitions lie on other workers ends this one with 74 and says which."""
    program = (
        "from aiokafka.structs import TopicPartition as TP\n"
        "from worker.settings import Settings\n"
        "from worker.stream import app\n"
        "app._check_copartitioning([TP('pilot.queries', 0), TP('pilot.feedback', 1)], Settings(), 4)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 74
    assert "pilot.feedback" in done.stdout + done.stderr


def test_store_is_the_setting_s(tmp_path: Path) -> None:
    """Memory by default; on disk the tables lie in this worker's own folder."""
    assert isinstance(app._store(settings(data_dir=tmp_path)), MemoryStore)
    store = app._store(settings(data_dir=tmp_path, store="rocksdb"))
    store.hold(logs(2))
    assert [path.name for path in (tmp_path / "t" / "w" / "store").iterdir()] == ["2"]
    store.hold({})


def test_store_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the setting is refused with the command that installs it."""
    monkeypatch.delitem(sys.modules, "worker.stream.rocks", raising=False)
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    with pytest.raises(UsageError, match=r"PILOT_STORE=rocksdb needs .* pip install 'pilot-router\[rocksdb\]'"):
        app._store(settings(data_dir=tmp_path, store="rocksdb"))
