"""The three Faust tables: how their records are keyed, read, planned for sending and stored.

`pending` and `arms` are plain tables, `spend` is a tumbling windowed one. The
changelogs are created beforehand (`worker.kafka.topics`: Faust would let the windowed
one delete money) and are the truth; the local store is written only after the broker
has acknowledged, so it never runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faust
import orjson
from faust.stores import base
from faust.windows import TumblingWindow

from worker import codecs
from worker.core.ledger import Spend, window_start
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.kafka.logs import Log
from worker.settings import Settings
from worker.stream.batch import Batch, Headers
from worker.stream.state import SpendKey, State
from worker.stream.store import Store


@dataclass(frozen=True, slots=True)
class Change:
    """One outgoing record, and its table if it is state."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    table: str | None = None


class Tables:
    """The changelog-backed state of this worker's partitions."""

    def __init__(self, app: faust.App, settings: Settings, partitions: int, store: Store) -> None:
        self._store = store
        self._length = settings.budget_window_s
        self._offset = settings.budget_window_offset_s
        expires = settings.budget_window_s + settings.decision_ttl_s
        self._pending = _plain(app, "pending", partitions)
        self._arms = _plain(app, "arms", partitions)
        window = TumblingWindow(float(self._length), expires=float(expires))
        self._spend = app.tables.add(
            faust.Table(
                app, name="spend", partitions=partitions, key_type=str, value_type=bytes, window=window,
                beacon=app.tables.beacon,
            )
        )  # fmt: skip
        self._spend.using_window(window)
        self.topics = {table.name: settings.changelog(table.name) for table in self.all}
        self._names = {topic: name for name, topic in self.topics.items()}
        for table in self.all:
            table._data = _Followed(app, table, store)

    @property
    def all(self) -> tuple[Any, ...]:
        """Every table, the arbiter first."""
        return (self._pending, self._spend, self._arms)

    def sizes(self) -> dict[str, int]:
        """Keys in the local store by table, about; windows count apart."""
        return {name: self._store.size(name) for name in self.topics}

    @property
    def claim_keys(self) -> dict[str, Callable[[int], bytes]]:
        """By changelog: a key of the partition that no record of ours has, for `worker.stream.fencing`."""
        return {
            self.topics["pending"]: lambda _: codecs.pack_pending_key("", ""),
            self.topics["spend"]: lambda _: self._pack_window(SpendKey("", self._offset)),
            self.topics["arms"]: lambda partition: ShardKey(partition, "", "").pack(),
        }

    def take_over(self, logs: Mapping[int, Mapping[str, Log]]) -> int:
        """Hold exactly these partitions, by table what the broker has of them; how many records they are behind."""
        self._store.hold(logs)
        return sum(
            log.end - 1 - max(self._store.offset(table, partition), log.beginning - 1)
            for partition, found in logs.items()
            for table, log in found.items()
        )

    def load_pending(self, partition: int, key: bytes) -> Pending | None:
        """A query's record from the local store."""
        value = self._store.get("pending", partition, key)
        if value is None:
            return None
        pending = codecs.unpack_pending(value)
        return pending._replace(window_s=0) if pending.window_s == self._length else pending

    def load_spend(self, partition: int, key: SpendKey) -> Spend | None:
        """A user's window from the local store."""
        value = self._store.get("spend", partition, self._pack_window(key))
        return None if value is None else codecs.unpack_spend(value)

    def load_shard(self, partition: int, key: ShardKey) -> Shard | None:
        """A shard from the local store."""
        value = self._store.get("arms", partition, key.pack())
        return None if value is None else Shard.unpack(value)

    def pending_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every stored pending record of this worker's partitions."""
        return self._store.items("pending")

    def spend_keys(self) -> Iterator[SpendKey]:
        """Every stored user window of this worker's partitions."""
        for key in self._store.keys("spend"):
            (user, window), length = codecs.unpack_spend_key(key), codecs.unpack_window_length(key)
            yield SpendKey(user, window, 0 if length == self._length else length)

    def other_windows(self) -> list[SpendKey]:
        """Stored user windows that began under another length or offset."""
        return [
            key
            for key in self.spend_keys()
            if key.length or window_start(key.window, self._length, self._offset) != key.window
        ]

    def plan(self, batch: Batch, state: State) -> tuple[dict[tuple[str, int], list[Change]], ...]:
        """The records of a batch by stage and topic partition, with the values as they are now."""
        first: dict[tuple[str, int], list[Change]] = {}
        second: dict[tuple[str, int], list[Change]] = {}
        for key, partition in batch.pending.items():
            pending = state.pending.get(partition, key)
            value = None if pending is None else codecs.pack_pending(pending, self._length)
            self._add(first, "pending", partition, key, value)
        for spend_key, partition in batch.spend.items():
            spend = state.spend.get(partition, spend_key)
            value = None if spend is None else codecs.pack_spend(spend)
            self._add(second, "spend", partition, self._pack_window(spend_key), value)
        for shard_key, partition in batch.shards.items():
            shard = state.shards.get(partition, shard_key)
            self._add(second, "arms", partition, shard_key.pack(), None if shard is None else shard.pack())
        for output in batch.outputs:
            change = Change(output.key, output.value, output.headers)
            second.setdefault((output.topic, output.partition), []).append(change)
        return first, second

    def store(self, changes: list[Change], metadata: Any, at_ms: int = 0) -> None:
        """Write what the broker acknowledged to the local store; `at_ms` is the time it was sent at."""
        table = changes[0].table if changes else None
        if table is None:
            return
        records = ((change.key or b"", change.value) for change in changes)
        self._store.write(table, metadata.partition, records, metadata.offset + len(changes) - 1, at_ms)

    def restore(self, tp: Any, records: Sequence[Any]) -> None:
        """Write records that were read from a changelog to the local store, in their order."""
        found = ((record.key, record.value) for record in records)
        self._store.write(self._names[tp.topic], tp.partition, found, records[-1].offset, 0)

    def _add(
        self, plan: dict[tuple[str, int], list[Change]], table: str, partition: int, key: bytes, value: bytes | None
    ) -> None:
        plan.setdefault((self.topics[table], partition), []).append(Change(key, value, (), table))

    def _pack_window(self, key: SpendKey) -> bytes:
        """Faust's form of a window, which ends .1 s early. Its start says it all: money stays where it began."""
        start = float(key.window)
        return orjson.dumps((key.user_id, (start, start + (key.length or self._length) - 0.1)))


class _Followed(base.Store):  # type: ignore[misc] # Faust is untyped here
    """What Faust's recovery sees of a table: how far it follows its changelog. All else goes past Faust."""

    def __init__(self, app: faust.App, table: Any, store: Store) -> None:
        super().__init__("worker://", app, table)
        self._store = store

    def persisted_offset(self, tp: Any) -> int:
        """Where recovery reads on. Never None: Faust would then go by what it remembers of an earlier assignment."""
        return self._store.offset(self.table_name, tp.partition)

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> None:
        """Nothing comes this way: see `worker.stream.drain`."""

    async def backup_partition(self, *arguments: Any, **options: Any) -> None:
        """Not used."""

    def restore_backup(self, *arguments: Any, **options: Any) -> None:
        """Not used."""

    def reset_state(self) -> None:
        """Not used."""


def _plain(app: faust.App, name: str, partitions: int) -> Any:
    table = faust.Table(
        app, name=name, partitions=partitions, key_type=bytes, value_type=bytes,
        beacon=app.tables.beacon,
    )  # fmt: skip
    return app.tables.add(table)
