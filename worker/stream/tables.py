"""The three Faust tables: how their records are keyed, read, planned for sending and stored.

`pending` and `arms` are plain tables, `spend` is a tumbling windowed one. The
changelogs are created beforehand (`worker.kafka.topics`: Faust would let the windowed
one delete money) and are the truth; the local store is written only after the broker
has acknowledged, so it never runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faust
import orjson
from faust.windows import TumblingWindow

from worker import codecs
from worker.core.ledger import Spend, window_start
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.settings import Settings
from worker.stream.batch import Batch, Headers
from worker.stream.state import SpendKey, State


@dataclass(frozen=True, slots=True)
class Change:
    """One outgoing record, and where it belongs in the local store if it is state."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    table: Any = None
    store_key: Any = None


class Tables:
    """The changelog-backed state of this worker's partitions."""

    def __init__(self, app: faust.App, settings: Settings, partitions: int) -> None:
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
        self._topics = {id(table): f"{settings.application_id}-{table.name}-changelog" for table in self.all}

    @property
    def all(self) -> tuple[Any, ...]:
        """Every table, the arbiter first."""
        return (self._pending, self._spend, self._arms)

    def sizes(self) -> dict[str, int]:
        """Keys in the local store by table; windows count apart."""
        return {table.name: len(table.data) for table in self.all}

    @property
    def claim_keys(self) -> dict[str, Callable[[int], bytes]]:
        """By changelog: a key of the partition that no record of ours has, for `worker.stream.fencing`."""
        return {
            self._topics[id(self._pending)]: lambda _: codecs.pack_pending_key("", ""),
            self._topics[id(self._spend)]: lambda _: orjson.dumps(self._window_key(SpendKey("", self._offset))),
            self._topics[id(self._arms)]: lambda partition: ShardKey(partition, "", "").pack(),
        }

    def load_pending(self, _: int, key: bytes) -> Pending | None:
        """A query's record from the local store."""
        value = self._pending.data.get(key)
        if value is None:
            return None
        pending = codecs.unpack_pending(value)
        return pending._replace(window_s=0) if pending.window_s == self._length else pending

    def load_spend(self, _: int, key: SpendKey) -> Spend | None:
        """A user's window from the local store."""
        value = self._spend.data.get(self._window_key(key))
        return None if value is None else codecs.unpack_spend(value)

    def load_shard(self, _: int, key: ShardKey) -> Shard | None:
        """A shard from the local store."""
        value = self._arms.data.get(key.pack())
        return None if value is None else Shard.unpack(value)

    def pending_items(self) -> list[tuple[bytes, bytes]]:
        """Every stored pending record of this worker's partitions."""
        return list(self._pending.data.items())

    def spend_keys(self) -> list[SpendKey]:
        """Every stored user window of this worker's partitions."""
        windows = ((user, round(start), round(end - start)) for user, (start, end) in self._spend.data)
        return [SpendKey(user, window, 0 if s == self._length else s) for user, window, s in windows]

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
            self._add(first, self._pending, partition, Change(key, value, (), self._pending, key))
        for spend_key, partition in batch.spend.items():
            spend, window = state.spend.get(partition, spend_key), self._window_key(spend_key)
            value = None if spend is None else codecs.pack_spend(spend)
            self._add(second, self._spend, partition, Change(orjson.dumps(window), value, (), self._spend, window))
        for shard_key, partition in batch.shards.items():
            shard, key = state.shards.get(partition, shard_key), shard_key.pack()
            value = None if shard is None else shard.pack()
            self._add(second, self._arms, partition, Change(key, value, (), self._arms, key))
        for output in batch.outputs:
            change = Change(output.key, output.value, output.headers)
            second.setdefault((output.topic, output.partition), []).append(change)
        return first, second

    def store(self, changes: list[Change], metadata: Any) -> None:
        """Write what the broker acknowledged to the local store, and how far it follows the changelog."""
        table = changes[0].table if changes else None
        if table is None:
            return
        for change in changes:
            if change.value is None:
                table.data.pop(change.store_key, None)
                table.data._key_partition.pop(change.store_key, None)
            else:
                table.data[change.store_key] = change.value
                # The memory store forgets lost partitions only of keys that it can place.
                table.data._key_partition[change.store_key] = metadata.partition
        table.data.set_persisted_offset(
            faust.types.TP(metadata.topic, metadata.partition), metadata.offset + len(changes) - 1
        )

    def restore(self, table: Any, tp: Any, records: Sequence[Any]) -> None:
        """Write records that were read from the changelog to the local store, in their order."""
        windowed = table is self._spend
        table.data.apply_changelog_batch([_Restored(record, tp, windowed=windowed) for record in records], _same, _same)

    def _add(self, plan: dict[tuple[str, int], list[Change]], table: Any, partition: int, change: Change) -> None:
        plan.setdefault((self._topics[id(table)], partition), []).append(change)

    def _window_key(self, key: SpendKey) -> tuple[str, tuple[float, float]]:
        """Faust's form of a window, which ends .1 s early. Its start says it all: money stays where it began."""
        start = float(key.window)
        return key.user_id, (start, start + (key.length or self._length) - 0.1)


class _Restored:
    """A changelog record as Faust's stores take it."""

    __slots__ = ("key", "message", "offset", "partition", "tp", "value")

    def __init__(self, record: Any, tp: Any, *, windowed: bool) -> None:
        self.key = _window_of(record.key) if windowed else record.key
        self.value = record.value
        self.tp, self.partition, self.offset = tp, tp.partition, record.offset
        self.message = self


def _window_of(key: bytes) -> tuple[str, tuple[float, float]]:
    user_id, (start, end) = orjson.loads(key)
    return user_id, (start, end)


def _same(value: Any) -> Any:
    return value


def _plain(app: faust.App, name: str, partitions: int) -> Any:
    table = faust.Table(
        app, name=name, partitions=partitions, key_type=bytes, value_type=bytes,
        beacon=app.tables.beacon,
    )  # fmt: skip
    return app.tables.add(table)
