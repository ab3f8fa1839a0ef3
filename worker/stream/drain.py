"""Draining: what was fetched reaches the agents in chunks, and recovering tables in batches.

Faust moves records one by one through its conductor, a queue and a stream, with two
tasks each; that cost more than deciding. A chunk is consecutive records of one source
partition and one Faust event: flow control, back-pressure and the wait for what is not
acknowledged work on chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import Any

CHUNK = 32  # records: what is decided without letting go of the event loop
POLL = 1_000  # records of a fetch

Restore = Callable[[Any, Sequence[Any]], None]


class Chunk:
    """Records of one source partition; Faust's event is acknowledged when all of them are."""

    __slots__ = ("_event", "_left", "records")

    def __init__(self, event: Any) -> None:
        self.records: Sequence[Any] = event.value
        self._event = event
        self._left = len(self.records)

    def ack(self) -> None:
        """One of the records is dealt with."""
        self._left -= 1
        if self._left == 0:
            self._event.ack()


def chunks(fetched: Mapping[Any, Sequence[Any]]) -> Iterator[tuple[Any, list[Any]]]:
    """What was fetched in chunks by topic, each with the partition of its last record.

    Topics take turns, and within a chunk the partitions share the room, so that none waits for all of another.
    """
    topics: dict[str, dict[Any, Sequence[Any]]] = {}
    for tp, records in fetched.items():
        topics.setdefault(tp.topic, {})[tp] = records
    turns = [_shared(partitions) for partitions in topics.values()]
    for chunk in chain.from_iterable(zip_longest(*turns)):
        if chunk is not None:
            yield chunk


def _shared(partitions: dict[Any, Sequence[Any]]) -> Iterator[tuple[Any, list[Any]]]:
    starts = dict.fromkeys(partitions, 0)
    while starts:
        share = max(1, CHUNK // len(starts))
        chunk: list[Any] = []
        for tp, start in list(starts.items()):
            chunk += partitions[tp][start : start + share]
            starts[tp] += share
            if starts[tp] >= len(partitions[tp]):
                del starts[tp]
        yield tp, chunk


class Feeder:
    """Hands chunks to the agents of one Faust consumer."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._pressure: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}

    def feed(self, tp: Any, records: Sequence[Any]) -> None:
        """Queue a chunk for its topic's agent; fetching of the topic pauses while the queue is long."""
        consumer = self._consumer
        high, drop = self._callbacks(tp.topic)
        message = consumer._to_message(tp, records[-1])
        for channel in consumer.app.topics._tp_index[tp]:
            message.incref()
            event = consumer.app.create_event(None, records, {}, message)
            channel.queue.put_nowait_enhanced(event, on_pressure_high=high, on_pressure_drop=drop)

    def _callbacks(self, topic: str) -> tuple[Callable[[], None], Callable[[], None]]:
        # The queue remembers them by identity.
        if topic not in self._pressure:
            self._pressure[topic] = (partial(self._hold, topic), partial(self._let_go, topic))
        return self._pressure[topic]

    def _hold(self, topic: str) -> None:
        for tp in [tp for tp in self._consumer._get_active_partitions() if tp.topic == topic]:
            self._consumer.on_buffer_full(tp)

    def _let_go(self, topic: str) -> None:
        for tp in [tp for tp in self._consumer._buffered_partitions if tp.topic == topic]:
            self._consumer.on_buffer_drop(tp)


def restore(recovery: Any, apply: Restore, tp: Any, records: Iterable[Any]) -> None:
    """Apply records of a changelog partition that is being recovered, and end the recovery with the last one.

    `recovery` is Faust's service; `apply` writes records of one partition to the store.
    """
    if not recovery.in_recovery or tp not in recovery.active_tps:
        return
    seen = recovery.active_offsets.get(tp)
    fresh = [record for record in records if seen is None or record.offset > seen]
    if fresh:
        apply(tp, fresh)
        recovery.active_offsets[tp] = fresh[-1].offset
    if not recovery.need_recovery():
        # Only who waits now: left set, it would end the next recovery before it has read anything.
        recovery.signal_recovery_end.set()
        recovery.signal_recovery_end.clear()
