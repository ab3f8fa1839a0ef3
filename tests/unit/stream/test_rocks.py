"""The store on disk: what another process finds, what it refuses, and what damage does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.unit.stream.doubles import logs
from worker.errors import ExitCode, OperationFailed, WorkerMustStop
from worker.kafka.logs import Log
from worker.kafka.topics import TABLES
from worker.stream.rocks import STALE_MS, RocksStore

NOW_MS = 10 * STALE_MS
_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.stream.doubles import logs
from worker.kafka.topics import TABLES
from worker.stream.rocks import RocksStore
store = RocksStore(Path(sys.argv[1]), TABLES, lambda: {now})
store.hold(logs(0, 1))
for number in range(100):
    store.write("pending", number % 2, [(b"key-%d" % number, b"value")], number, {now})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(folder: Path, now_ms: float = NOW_MS, **found: object) -> RocksStore:
    store = RocksStore(folder, TABLES, lambda: now_ms)
    store.hold(logs(0, **found))  # type: ignore[arg-type]
    return store


def fill(folder: Path, keys: int = 1) -> None:
    """What an earlier process left: some keys up to offset 5."""
    store = opened(folder)
    records = [(b"key-%d" % number, b"value" * 50) for number in range(keys)]
    store.write("pending", 0, records, 5, NOW_MS)
    store.hold({})


def dropped(folder: Path, now_ms: float = NOW_MS, **found: object) -> str:
    """Why the next process drops what it finds; empty if it does not."""
    with capture_logs() as said:
        store = opened(folder, now_ms, **found)
    assert (store.offset("pending", 0) == -1) == bool(said)
    assert (store.get("pending", 0, b"key-0") is None) == bool(said)
    store.hold({})
    return "".join(f"{line['event']}: {line['reason']}" for line in said)


def test_next_process_reads_on(folder: Path) -> None:
    """What was written before is there, with its offset."""
    fill(folder)
    assert dropped(folder) == ""


def test_killed_process_leaves_what_it_wrote(folder: Path) -> None:
    """After kill -9 every write is there with its mark, without any flush."""
    command = [sys.executable, "-c", _KILLED.format(now=NOW_MS), str(folder)]
    assert subprocess.run(command, check=False).returncode == -9
    store = RocksStore(folder, TABLES, lambda: NOW_MS)
    store.hold(logs(0, 1))
    assert (store.offset("pending", 0), store.offset("pending", 1)) == (98, 99)
    assert sorted(store.keys("pending")) == sorted(b"key-%d" % number for number in range(100))
    store.hold({})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"topic_id": "second"}, "its changelog is Log(topic_id='second'"),
        ({"end": 5}, "end=5"),
        ({"beginning": 7}, "beginning=7"),
        ({"now_ms": NOW_MS + STALE_MS}, "left 12.0 h ago"),
        ({"now_ms": NOW_MS - STALE_MS}, "left -12.0 h ago"),
    ],
    ids=["topic made anew", "changelog cut short", "changelog begins later", "left long ago", "clock set back"],
)
def test_left_state_that_may_not_follow(folder: Path, found: dict[str, object], reason: str) -> None:
    """What another process left is taken only where the changelog can still say what happened since."""
    fill(folder)
    assert reason in dropped(folder, **found)  # type: ignore[arg-type]


def test_age_counts_only_while_others_may_have_written(folder: Path) -> None:
    """A partition that is kept is up to date, however long nothing was written to it."""
    now = [float(NOW_MS)]
    store = RocksStore(folder, TABLES, lambda: now[0])
    store.hold(logs(0))
    store.write("pending", 0, [(b"k", b"v")], 5, NOW_MS)
    now[0] += 2 * STALE_MS
    store.hold(logs(0))
    assert store.offset("pending", 0) == 5
    store.hold({})


def test_table_that_seldom_changes_is_no_older_than_the_others(folder: Path) -> None:
    """Who writes to one table of a partition owns them all, and has read them all."""
    fill(folder)
    store = opened(folder)
    store.write("arms", 0, [(b"k", b"v")], 0, NOW_MS + STALE_MS)
    store.hold({})
    assert dropped(folder, NOW_MS + 2 * STALE_MS - 1) == ""


@pytest.mark.parametrize(("read_to", "reason"), [(98, "its recovery had not ended"), (99, "")])
def test_recovery_counts_when_it_has_ended(folder: Path, read_to: int, reason: str) -> None:
    """Old records do not make a store old that has read them to the end, nor new ones one young that has not."""
    found = {table: Log("first", 0, 1 if table == "arms" else 100) for table in TABLES}
    store = RocksStore(folder, TABLES, lambda: NOW_MS)
    store.hold({0: found})
    for table, offset in {"spend": 99, "arms": 0, "pending": read_to}.items():
        store.write(table, 0, [(b"key-0", b"v")], offset, 0)
    store.hold({})
    assert reason in dropped(folder, NOW_MS + STALE_MS - 1)
    assert bool(reason) == (opened(folder, NOW_MS + STALE_MS - 1).offset("pending", 0) == -1)


def test_regained_partition_reads_on(folder: Path) -> None:
    """A partition that was away for a while goes on from where it was left."""
    store = opened(folder)
    store.write("pending", 0, [(b"k", b"v")], 5, NOW_MS)
    store.hold(logs(1))
    assert store.get("pending", 0, b"k") is None
    store.hold(logs(0))
    assert (store.get("pending", 0, b"k"), store.offset("pending", 0)) == (b"v", 5)
    store.hold({})


@pytest.mark.parametrize("damaged", ["MANIFEST-*", "CURRENT", "*.sst", "*.log"])
def test_damaged_file_is_read_again(folder: Path, damaged: str) -> None:
    """Files that are cut short or full of something else cost a recovery, not the state."""
    fill(folder, keys=1_000)
    opened(folder).hold({})  # the log becomes a table
    hit = list((folder / "0").glob(damaged))
    assert hit
    for path in hit:
        path.write_bytes(b"something else")
    with capture_logs() as said:
        store = opened(folder)
    if damaged == "*.log":  # everything was in the tables already
        assert (store.offset("pending", 0), len(list(store.keys("pending")))) == (5, 1_000)
    else:
        assert store.offset("pending", 0) == -1
        assert list(store.keys("pending")) == []
        assert damaged == "CURRENT" or "local state is damaged: it is read again" in said[0]["event"]
    store.write("pending", 0, [(b"k", b"v")], 6, NOW_MS)
    assert store.get("pending", 0, b"k") == b"v"
    store.hold({})


def test_damage_that_shows_later_ends_the_worker_and_heals(folder: Path) -> None:
    """A block that cannot be read ends the process with 74, and its successor begins anew."""
    fill(folder, keys=1_000)
    opened(folder).hold({})
    for path in (folder / "0").glob("*.sst"):
        content = bytearray(path.read_bytes())
        content[10:200] = bytes(190)
        path.write_bytes(content)
    store = opened(folder)
    with pytest.raises(WorkerMustStop, match=r"is damaged and was removed: a restart reads it anew") as told:
        list(store.items("pending"))
    assert told.value.code == ExitCode.STATE_BROKEN
    del told  # its traceback holds the iterator, and that the database
    store.hold({})
    assert opened(folder).offset("pending", 0) == -1


def test_another_format_is_read_again(folder: Path) -> None:
    """What another version of the worker left in its own form is not guessed at."""
    fill(folder)
    store = opened(folder)
    database = store._databases[0]
    database._all.get_column_family("pending").put(b"\xff", b"another form")
    del database
    store.hold({})
    assert "local state is damaged" in dropped(folder)


def test_folder_of_another_process(folder: Path) -> None:
    """Two workers with one id and one folder: the second says what is wrong and touches nothing."""
    first = opened(folder)
    first.write("pending", 0, [(b"k", b"v")], 5, NOW_MS)
    with pytest.raises(OperationFailed, match=r"in use by another process; each worker needs a PILOT_WORKER_ID"):
        opened(folder)
    assert first.get("pending", 0, b"k") == b"v"
    first.hold({})


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The line names the folder."""
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OperationFailed, match="file"):
        opened(tmp_path / "file" / "store")
