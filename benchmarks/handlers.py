"""CPU time of an event in the agents' handlers and what they write, without Kafka: where it goes.

Chunks of queries and of their feedback are checked, decided and settled as in a worker, batches of some
200 events are planned and encoded for the changelogs, and observers are told of them. Thread CPU time, the
smallest of the repetitions. To compare two versions, run it in both, in turn.

    python benchmarks/handlers.py --repetitions 5 --queries 1000
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import orjson
from aiokafka.producer.message_accumulator import BatchBuilder
from deployment import MODELS, PARTITIONS
from throughput import Load, Records, make_load

from worker.core.prior import default_prior
from worker.core.router import Router, RouterOptions
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog
from worker.kafka.partitioning import partition_of
from worker.kafka.topics import TABLES
from worker.observe import Observers
from worker.observe.logs import LogObserver
from worker.observe.prometheus import PrometheusObserver
from worker.settings import Settings
from worker.stream.app import MAX_BATCH_BYTES, _faust_app
from worker.stream.batch import Journal, SourceRecord
from worker.stream.drain import CHUNK
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import State
from worker.stream.store import MemoryStore
from worker.stream.sweep import BrokerClock, Sweeper
from worker.stream.tables import Tables

BATCH = 200  # events
NOW_MS = 1_770_000_000_000


class Handlers:
    """Both handlers over one journal; what they write is encoded and goes nowhere."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        settings, observer = Settings(), Observers(PrometheusObserver(), LogObserver())
        self._tables = Tables(_faust_app(settings, PARTITIONS), settings, PARTITIONS, MemoryStore(TABLES))
        state = State(self._tables.load_pending, self._tables.load_spend, self._tables.load_shard)
        self._journal = Journal(state)
        prior = default_prior()
        router = Router(prior, RouterOptions())
        catalog, budgets = Catalog(on_change=lambda: router.set_arms(catalog.arms)), Budgets()
        for number, model in enumerate(MODELS):
            catalog.apply(Record(0, number, 0, str(model["model"]).encode(), orjson.dumps(model)))
        budgets.apply(Record(0, 0, 0, b"*", b'{"limit_usd": 1000000}'))
        tenure = SimpleNamespace(journal=self._journal, began=[])
        shared: Any = {"settings": settings, "partitions": PARTITIONS, "tenure": tenure, "observer": observer}
        sweeper = Sweeper(**shared, tables=self._tables, committed=lambda *_: None, clock=BrokerClock())
        shared |= {"sweeper": sweeper, "catalog": catalog}
        encoder: Any = SimpleNamespace()
        self._route = RouteHandler(
            **shared, router=router, projection=prior.projection, encoder=encoder, budgets=budgets
        )
        self._settle = SettleHandler(**shared)

    def run(self, load: Load) -> None:
        """Deal with all of it; the CPU seconds of each part are in `spent`."""
        waiting = 0
        for queries, feedback in zip(_chunks("queries", load.queries), _chunks("feedback", load.feedback), strict=True):
            for name, handler, records in (("queries", self._route, queries), ("feedback", self._settle, feedback)):
                with self._timed(f"{name}: check"):
                    prepared: Any = handler.prepare_many(records)
                with self._timed(f"{name}: handle"):
                    handler.handle_many(list(zip(records, prepared, strict=True)))
                waiting += len(records)
            if waiting >= BATCH:
                waiting = 0
                self._leave()

    def _leave(self) -> None:
        batch = self._journal.turn()
        with self._timed("changelog records"):
            plans = self._tables.plan(batch, self._journal.state)
        with self._timed("record batches"):
            for changes in (found for plan in plans for found in plan.values()):
                builder = BatchBuilder(MAX_BATCH_BYTES, 0)
                for change in changes:
                    builder.append(timestamp=NOW_MS, key=change.key, value=change.value)
                builder._build()  # noqa: SLF001 - what sending it does
        with self._timed("observers of decisions"):
            for call in batch.delivered:
                call()

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.spent[part] += time.thread_time() - began


def _chunks(topic: str, events: Records) -> Iterator[list[SourceRecord]]:
    """Records of each partition in turn, as the consumer hands them on."""
    found: list[list[SourceRecord]] = [[] for _ in range(PARTITIONS)]
    for key, value in events:
        partition = partition_of(key, PARTITIONS)
        found[partition].append(SourceRecord(f"pilot.{topic}", partition, len(found[partition]), NOW_MS, key, value))
    for start in range(0, max(map(len, found)), CHUNK):
        for records in found:
            if start < len(records):
                yield records[start : start + CHUNK]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1_000)
    chosen = parser.parse_args()
    load = make_load(chosen.queries, 0, text=False)
    runs = []
    for _ in range(chosen.repetitions):
        handlers = Handlers()
        handlers.run(load)
        runs.append(handlers.spent)
    best = min(runs, key=lambda spent: sum(spent.values()))
    for part, seconds in (*best.items(), ("together", sum(best.values()))):
        print(f"{part:24} {seconds / load.events * 1e6:7.1f} µs an event")


if __name__ == "__main__":
    main()
