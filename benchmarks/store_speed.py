"""What each store costs the event loop an event, and what it writes, at several sizes of the tables.

A lane's work on its store, without Kafka: for a query a read of a key that is not there, and
with each batch of a hundred queries and their feedback the writes of two pending records a query, its
user's window, and eleven shards. The stores take turns in one process; medians of the turns.

    python benchmarks/store_speed.py --keys 100000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from worker.kafka.logs import Log
from worker.kafka.topics import TABLES
from worker.stream.rocks import RocksStore
from worker.stream.store import MemoryStore, Store

BATCH = 100
SHARDS = 11


def prepare(store: Store, keys: int, value: bytes) -> None:
    """Hold one partition with so many keys."""
    store.hold({0: {table: Log("bench", 0, 2**40) for table in TABLES}})
    for start in range(0, keys, BATCH):
        store.write("pending", 0, [(b"old-%d" % number, value) for number in range(start, start + BATCH)], start, 1)


def turn(store: Store, number: int, batches: int, value: bytes, shard: bytes) -> float:
    """CPU time of this thread in µs an event."""
    began = time.thread_time()
    for batch in range(number * batches, (number + 1) * batches):
        names = [b"%d" % query for query in range(batch * BATCH, (batch + 1) * BATCH)]
        for name in names:
            store.get("pending", 0, name)
        for _ in range(2):
            store.write("pending", 0, [(name, value) for name in names], batch, 1)
        store.write("spend", 0, [(b"u" + name, value[:60]) for name in names], batch, 1)
        store.write("arms", 0, [(b"%d" % arm, shard) for arm in range(SHARDS)], batch, 1)
    return (time.thread_time() - began) / (batches * BATCH * 2) * 1e6


def main(arguments: argparse.Namespace) -> None:
    """Measure and print medians."""
    random = np.random.default_rng(1)
    value, shard = random.bytes(200) + bytes(600), random.bytes(5_600)
    table = Table(title="CPU µs an event of the store")
    for column in ("keys", "memory", "rocksdb"):
        table.add_column(column, justify="right")
    for keys in arguments.keys or [0, 100_000]:
        with tempfile.TemporaryDirectory(prefix="pilot-bench-") as folder:
            stores: Sequence[Store] = MemoryStore(TABLES), RocksStore(Path(folder), TABLES)
            found = defaultdict(list)
            for store in stores:
                prepare(store, keys, value)
            for number in range(arguments.turns):
                for store in stores:
                    found[store].append(turn(store, number, arguments.batches, value, shard))
            table.add_row(f"{keys:,}", *(f"{statistics.median(found[store]):.1f}" for store in stores))
            for store in stores:
                store.hold({})
    Console().print(table)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, action="append", help="repeatable; default: 0 and 100,000")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--batches", type=int, default=20, help="of a turn, each of 200 events")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
