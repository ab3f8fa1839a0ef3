"""A batch: everything that both agents of a worker changed and emitted since the last one left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.stream.state import SpendKey, State

Headers = tuple[tuple[str, bytes | None], ...]


class SourceRecord(NamedTuple):
    """A record of a source topic as it was received; timestamp is broker time in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """A record for a public topic."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(slots=True)
class Batch:
    """Keys are kept with their partition; values are taken when the batch leaves.

    `covered` are the source events that are done when the batch is acknowledged, as
    (position, offset, event); the first `held` of them were taken over from earlier batches,
    whose shards leave with this one.
    """

    number: int
    assignment: Any = None
    generation: int | None = None
    covered: list[tuple[Any, int, Any]] = field(default_factory=list)
    held: int = 0
    pending: dict[bytes, int] = field(default_factory=dict)
    spend: dict[SpendKey, int] = field(default_factory=dict)
    shards: dict[ShardKey, int] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    delivered: list[Callable[[], None]] = field(default_factory=list)


class Journal:
    """Where the agents write: the state in memory and the batch that takes it out, in one step."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.batch = Batch(number=1)

    def turn(self, *, hold_shards: bool = False) -> Batch:
        """Close the current batch and begin the next.

        Held shards stay for a later batch, and with them what is covered: an event is not
        done before all of its effects are durable.
        """
        closed = self.batch
        self.batch = Batch(number=closed.number + 1)
        if hold_shards and closed.shards:
            self.batch.assignment, self.batch.generation = closed.assignment, closed.generation
            self.batch.shards, closed.shards = closed.shards, {}
            self.batch.covered, closed.covered = closed.covered, []
            self.batch.held = len(self.batch.covered)
        return closed

    def put_pending(self, partition: int, key: bytes, pending: Pending | None) -> None:
        """Write a pending record; None is a tombstone."""
        self.state.pending.put(key, pending, self.batch.number)
        self.batch.pending[key] = partition

    def put_spend(self, partition: int, key: SpendKey, spend: Spend | None) -> None:
        """Write a user's window; None is a tombstone."""
        self.state.spend.put(key, spend, self.batch.number)
        self.batch.spend[key] = partition

    def put_shard(self, key: ShardKey, shard: Shard) -> None:
        """Write a shard, which changes in place: dirty ones leave once per batch."""
        self.state.shards.put(key, shard, self.batch.number)
        self.batch.shards[key] = key.partition

    def emit(self, output: Output) -> None:
        """Send a record with this batch, after its pending records are acknowledged."""
        self.batch.outputs.append(output)

    def on_delivered(self, call: Callable[[], None]) -> None:
        """Call when everything of the current batch is acknowledged."""
        self.batch.delivered.append(call)
