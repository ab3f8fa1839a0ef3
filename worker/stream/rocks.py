"""The store on disk: one RocksDB database a partition, a column family a table.

Each write is one atomic batch of records and mark, so whatever the end of the process
leaves is some state that the tables had. What is damaged is not repaired but dropped:
the changelogs have it all.
"""

from __future__ import annotations

import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteBufferManager

from worker.errors import ExitCode, OperationFailed, WorkerMustStop
from worker.kafka.logs import Log
from worker.stream.store import NOTHING, Changes, Mark

logger = structlog.get_logger(__name__)

# Deletions that somebody else wrote meanwhile may be gone from the changelog after its `delete.retention.ms`, a day.
STALE_MS = 12 * 60 * 60 * 1000
# Of all partitions together.
_CACHE_BYTES = 64 * 1024 * 1024
_BUFFERED_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 16 * 1024 * 1024
_LOG_BYTES = 64 * 1024 * 1024  # of a partition: what a start replays; a table that seldom changes would keep all of it
_FILTER_BITS = 10  # of a key: one in a hundred misses reads a block in vain
_PAGE = 1_000  # keys read at a time: an open iterator would keep the database open
_MARK = b"\xff"  # not UTF-8, so no key of a table
_PACKED = struct.Struct("<B32sqq")  # version, topic id, offset, time
_VERSION = 1


class RocksStore:
    """See `worker.stream.store.Store`; `now_ms` is the time, ms since the epoch.

    Raises:
        WorkerMustStop: exit 74, a database is damaged. It is gone when this is raised; a restart reads it anew.
        OperationFailed: the disk is full, or another process has the folder.
    """

    def __init__(
        self, folder: Path, tables: Sequence[str], now_ms: Callable[[], float] = lambda: time.time() * 1000
    ) -> None:
        self._folder = folder
        self._tables = tables
        self._now_ms = now_ms
        self._cache = Cache(_CACHE_BYTES)
        self._buffers = WriteBufferManager(_BUFFERED_BYTES, allow_stall=False)
        self._databases: dict[int, _Database] = {}
        self._changing = threading.Lock()  # a database is closed only when nobody looks at it

    def hold(self, logs: Mapping[int, Mapping[str, Log]]) -> None:
        """See `Store`."""
        with self._changing:
            for partition in self._databases.keys() - logs.keys():
                self._databases.pop(partition).close()
            for partition, found in logs.items():
                opened = partition not in self._databases
                database = self._databases.pop(partition, None) or self._open(partition)
                objection = database.objection(found, self._now_ms() if opened else None)
                if objection:
                    logger.warning("local state dropped: it is read again", partition=partition, reason=objection)
                    database.destroy()
                    database = self._open(partition)
                database.begin(found, self._now_ms())
                self._databases[partition] = database

    def offset(self, table: str, partition: int) -> int:
        """See `Store`."""
        database = self._databases.get(partition)
        return NOTHING if database is None else database.marks[table].offset

    def get(self, table: str, partition: int, key: bytes) -> bytes | None:
        """See `Store`."""
        database = self._databases.get(partition)
        return None if database is None else database.get(table, key)

    def write(self, table: str, partition: int, changes: Changes, offset: int, at_ms: int) -> None:
        """See `Store`."""
        database = self._databases.get(partition)
        if database is not None:
            database.write(table, changes, offset, at_ms)

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """See `Store`."""
        for partition in list(self._databases):
            yield from self._walk(table, partition, values=True)

    def keys(self, table: str) -> Iterator[bytes]:
        """See `Store`."""
        for partition in list(self._databases):
            for key, _ in self._walk(table, partition, values=False):
                yield key

    def size(self, table: str) -> int:
        """See `Store`."""
        with self._changing:
            return sum(database.size(table) for database in self._databases.values())

    def _walk(self, table: str, partition: int, *, values: bool) -> Iterator[tuple[bytes, bytes]]:
        after = b""
        while (database := self._databases.get(partition)) is not None:
            page = database.page(table, after, values=values)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1][0] + b"\0"

    def _open(self, partition: int) -> _Database:
        path = self._folder / str(partition)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _Database(path, self._tables, self._options)
        except OSError as error:
            raise OperationFailed(f"{path}: {error.strerror}") from error
        except _Damaged as error:
            logger.warning("local state is damaged: it is read again", partition=partition, reason=str(error))
            _remove(path)
            return _Database(path, self._tables, self._options)

    def _options(self) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(_BUFFER_BYTES)
        options.set_max_total_wal_size(_LOG_BYTES)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_keep_log_file_num(2)
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(_FILTER_BITS, False)
        options.set_block_based_table_factory(blocks)
        return options


class _Damaged(Exception):
    """What is on disk is no database."""


class _Database:
    """One open partition."""

    def __init__(self, path: Path, tables: Sequence[str], options: Callable[[], Options]) -> None:
        self._path = path
        self._ends: dict[str, int] = {}
        self._begun_ms = 0
        try:
            self._all = Rdict(str(path), options(), column_families={table: options() for table in tables})
        except Exception as error:
            raise _understood(path, error) from error
        self._families = {table: self._all.get_column_family(table) for table in tables}
        self._handles = {table: self._all.get_column_family_handle(table) for table in tables}
        try:
            self.marks = {table: _unpacked(self._families[table].get(_MARK)) for table in tables}
        except Exception as error:
            self.close()
            raise _understood(path, error) from error

    def objection(self, logs: Mapping[str, Log], now_ms: float | None) -> str | None:
        """Why it must not be read on from here, or None; `now_ms` unless it was held up to now."""
        filled = {table: mark for table, mark in self.marks.items() if mark.offset != NOTHING}
        for table, mark in filled.items():
            if not mark.follows(logs[table]):
                return f"{table} was left at {mark}, its changelog is {logs[table]}"
        if not filled or now_ms is None:
            return None
        at_ms = max(mark.at_ms for mark in filled.values())
        if not at_ms:
            return "its recovery had not ended"
        return f"left {(now_ms - at_ms) / 3_600_000:.1f} h ago" if abs(now_ms - at_ms) >= STALE_MS else None

    def begin(self, logs: Mapping[str, Log], now_ms: float) -> None:
        """Follow these changelogs from now on; once their present ends are reached all was up to date at this time."""
        self.marks = {table: mark._replace(topic_id=logs[table].topic_id) for table, mark in self.marks.items()}
        self._ends = {table: log.end - 1 for table, log in logs.items()}
        self._begun_ms = int(now_ms)

    def get(self, table: str, key: bytes) -> bytes | None:
        value: bytes | None = self._try(lambda: self._families[table].get(key))
        return value

    def page(self, table: str, after: bytes, *, values: bool) -> list[tuple[bytes, bytes]]:
        """Some keys from `after` on, with their values if wanted; fewer than a page: there are no more."""
        found: list[tuple[bytes, bytes]] = self._try(lambda: self._read_page(table, after, values))
        return found

    def _read_page(self, table: str, after: bytes, values: bool) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        place = self._families[table].iter()
        place.seek(after)
        while place.valid() and len(found) < _PAGE:
            key = place.key()
            if key != _MARK:
                found.append((key, place.value() if values else b""))
            place.next()
        place.status()  # raises: at a damaged block the iteration ends as if there were no more
        return found

    def size(self, table: str) -> int:
        family = self._families[table]
        return max(0, (family.property_int_value("rocksdb.estimate-num-keys") or 0) - 1)

    def write(self, table: str, changes: Changes, offset: int, at_ms: int) -> None:
        mark, handle, batch = self.marks[table].moved(offset, at_ms), self._handles[table], WriteBatch(raw_mode=True)
        if not at_ms and all(found.offset >= self._ends[name] for name, found in {**self.marks, table: mark}.items()):
            mark = mark.moved(offset, self._begun_ms)
        for key, value in changes:
            if value is None:
                batch.delete(key, handle)
            else:
                batch.put(key, value, handle)
        batch.put(_MARK, _packed(mark), handle)
        self._try(lambda: self._all.write(batch))
        self.marks[table] = mark

    def close(self) -> None:
        """What is still open after this is the disk's; another object may open it."""
        self._families.clear()
        self._handles.clear()
        self._all.close()

    def destroy(self) -> None:
        self.close()
        _remove(self._path)

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            understood = _understood(self._path, error)
            if not isinstance(understood, _Damaged):
                raise understood from error
            _remove(self._path)
            message = f"{self._path} is damaged and was removed: a restart reads it anew ({understood})"
            raise WorkerMustStop(ExitCode.STATE_BROKEN, message) from error


def _understood(path: Path, error: Exception) -> Exception:
    """RocksDB's errors are told apart by their text only: what rebuilding does not heal must not remove anything."""
    text = str(error)
    if "LOCK:" in text:
        return OperationFailed(f"{path}: in use by another process; each worker needs a PILOT_WORKER_ID of its own")
    if any(word in text for word in ("No space left", "Permission denied", "Too many open files", "Read-only")):
        return OperationFailed(f"{path}: {text}")
    return _Damaged(text)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _packed(mark: Mark) -> bytes:
    return _PACKED.pack(_VERSION, mark.topic_id.encode(), mark.offset, mark.at_ms)


def _unpacked(value: bytes | None) -> Mark:
    if value is None:
        return Mark("")
    version, topic_id, offset, at_ms = _PACKED.unpack(value)
    if version != _VERSION:
        raise _Damaged(f"format {version}, this worker reads {_VERSION}")
    return Mark(topic_id.decode().rstrip("\0"), offset, at_ms)
