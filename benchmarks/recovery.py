"""How long a worker takes from its start until it is ready, and what it uses, by the size of its tables and the store.

The changelog of `pending` gets so many different decided queries, as a worker would have
written them, and that of `spend` as many users' windows as a tenth of it. They are written
by a plain producer: a recovery sees keys and values only, and these come from the worker's
own codecs. Then a worker is started on them. `rocksdb` starts twice: with an empty folder,
and again after kill -9 on what is there.

    python benchmarks/recovery.py --keys 100000 --keys 1000000 --store memory --store rocksdb
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from deployment import MODELS, PARTITIONS, broker, deploy, ready, worker
from rich.console import Console
from rich.table import Table

from worker import codecs
from worker.core.ledger import Spend
from worker.core.lifecycle import Choice, Pending
from worker.core.prior import default_prior
from worker.kafka.partitioning import partition_of
from worker.settings import Settings

PATIENCE_S = 900.0
QUERIES_A_USER = 10
_MAX_BATCH = 256 * 1024
Row = tuple[str, int, bytes, bytes]  # topic, partition, key, value


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a worker on tables of so many keys."""

    seconds: float
    cpu_s: float
    resident_mb: float


def rows(settings: Settings, keys: int) -> Iterator[Row]:
    """The changelog records of so many keys, over both tables."""
    prior, now = default_prior(), int(time.time())
    context = np.random.default_rng(1).standard_normal(prior.projection.dimension)
    window = now // settings.budget_window_s * settings.budget_window_s
    ends = [window, window + settings.budget_window_s - 0.1]
    queries = keys * QUERIES_A_USER // (QUERIES_A_USER + 1)
    for number in range(queries):
        user = f"user-{number // QUERIES_A_USER}"
        partition = partition_of(user.encode(), PARTITIONS)
        if number % QUERIES_A_USER == 0:
            value = codecs.pack_spend(Spend(reserved=QUERIES_A_USER, queries=QUERIES_A_USER))
            yield settings.changelog("spend"), partition, orjson.dumps([user, ends]), value
        pending = Pending(
            _decision(user, number), number, window, 0,
            Choice(MODELS[0]["model"], context, prior.fingerprint, 1, 1, 1, 120, 0.1, 0.3, 0.0, False),
            changed_ms=now * 1000,
        )  # fmt: skip
        key, value = (
            codecs.pack_pending_key(user, f"q-{number}"),
            codecs.pack_pending(pending, settings.budget_window_s),
        )
        yield settings.changelog("pending"), partition, key, value


def _decision(user: str, number: int) -> bytes:
    """About a decision's size with `PILOT_DECISION_DETAIL=chosen`."""
    return orjson.dumps({"query_id": f"q-{number}", "user_id": user, "status": "routed", "told": "x" * 500})


async def fill(settings: Settings, keys: int) -> float:
    """Write the changelogs in large batches; their size in MB."""
    size, batches = 0, {}
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, max_batch_size=_MAX_BATCH, linger_ms=0
    ) as producer:
        for topic, partition, key, value in rows(settings, keys):
            place, size = (topic, partition), size + len(key) + len(value)
            batch = batches.setdefault(place, producer.create_batch())
            if batch.append(key=key, value=value, timestamp=None) is None:
                await producer.send_batch(batch, topic, partition=partition)
                batches[place] = producer.create_batch()
                batches[place].append(key=key, value=value, timestamp=None)
        for (topic, partition), batch in batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    return size / 2**20


async def start(settings: Settings, store: str) -> Start:
    """Start a worker, wait until it is ready, kill it."""
    began = time.monotonic()
    with worker(settings, store=store) as started:
        await ready(settings, started, PATIENCE_S)
        found = Start(time.monotonic() - began, started.cpu_s, started.resident_mb)
        started.popen.kill()
        return found


async def measure(
    address: str, folder: Path, keys: int, stores: Sequence[str], repetitions: int
) -> tuple[float, dict[str, list[Start]]]:
    """Size of the changelogs in MB, and several starts of each kind on them."""
    settings, starts = await deploy(address, folder / str(keys)), defaultdict(list)
    state_mb = await fill(settings, keys)
    for _ in range(repetitions):
        for store in stores:
            shutil.rmtree(settings.worker_dir, ignore_errors=True)
            kinds = {"memory": ["memory"], "rocksdb": ["rocksdb, empty folder", "rocksdb, again"]}[store]
            for kind in kinds:
                starts[kind].append(await start(settings, store))
                print(f"{keys:,} keys, {kind}: {starts[kind][-1]}", flush=True)
    return state_mb, starts


def main(arguments: argparse.Namespace) -> None:
    """Measure and print medians."""
    table = Table(title="from the start of the process to ready")
    for column in ("keys", "changelogs, MB", "store", "s", "CPU s", "resident, MB"):
        table.add_column(column, justify="right")
    with broker() as address, tempfile.TemporaryDirectory(prefix="pilot-bench-") as folder:
        for keys in arguments.keys or [0, 100_000, 1_000_000]:
            state_mb, found = asyncio.run(
                measure(address, Path(folder), keys, arguments.store or ["memory", "rocksdb"], arguments.repetitions)
            )
            for store, starts in found.items():
                columns = zip(*((s.seconds, s.cpu_s, s.resident_mb) for s in starts), strict=True)
                medians = (f"{statistics.median(column):,.1f}" for column in columns)
                table.add_row(f"{keys:,}", f"{state_mb:,.0f}", store, *medians)
    Console().print(table)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, action="append", help="repeatable; default: 0, 100,000 and 1,000,000")
    parser.add_argument("--store", choices=["memory", "rocksdb"], action="append", help="repeatable; default: both")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
