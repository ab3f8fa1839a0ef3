"""Events a second of one worker, beside a bare consume-and-produce loop and Quix Streams, and its latency.

Every repetition preloads the same bytes (queries and their feedback) and gives them to each
system in turn, on one local Kafka. Rates are taken from broker timestamps: from the first
record a system wrote to its last, changelogs included. Latency is measured at half of the rate just found:
from the query's LogAppendTime to the decision's. Medians are printed.

    python benchmarks/throughput.py --repetitions 3 --queries 10000
    python benchmarks/throughput.py --peer .venv-quix/bin/python   # an interpreter that has quixstreams
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from deployment import (
    PARTITIONS,
    Process,
    broker,
    deploy,
    edge_times,
    process,
    read,
    ready,
    until_committed,
    until_written,
    worker,
    write,
)
from rich.console import Console
from rich.table import Table

from worker.encode import SentenceEncoder
from worker.encode.batch import MAX_BATCH
from worker.kafka import connect, topics
from worker.settings import Settings

USERS = 200
DIMENSION = 384
PATIENCE_S = 600.0
WARM_UP_S = 5.0  # of a worker and a broker that have just started

SYSTEMS = Path(__file__).parent / "systems"
OURS, BARE, QUIX = "pilot worker", "bare aiokafka loop", "Quix Streams, one state a user"
Records = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Load:
    """The same events for every system, as keys and values."""

    queries: Records
    feedback: Records

    @property
    def events(self) -> int:
        """Queries and feedback records together."""
        return len(self.queries) + len(self.feedback)


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one system in one repetition."""

    events_per_s: float
    cpu_us: float
    resident_mb: float


def make_load(queries: int, seed: int, *, text: bool) -> Load:
    """Queries of many users, with an embedding or with a text, and one whole feedback for each."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 5_000, (queries, 30))
    made: tuple[Records, Records] = ([], [])
    for number, vector in enumerate(rng.standard_normal((queries, DIMENSION)).round(6).tolist()):
        ids = {"query_id": f"q{seed}-{number}", "user_id": f"user-{rng.integers(USERS)}"}
        content = {"text": " ".join(f"w{word}" for word in words[number])} if text else {"embedding": vector}
        query = {**ids, **content, "input_tokens": 120, "max_output_tokens": 500}
        tokens = int(rng.integers(20, 400))
        told = {"reward": float(rng.integers(2)), "cost_usd": 1e-6 * tokens}
        feedback = {**ids, **told, "input_tokens": 120, "output_tokens": tokens, "source": "judge"}
        for records, event in zip(made, (query, feedback), strict=True):
            records.append((ids["user_id"].encode(), orjson.dumps(event)))
    return Load(*made)


async def preload(settings: Settings, load: Load) -> None:
    """Write all queries and all feedback before anybody reads."""
    await write(settings, settings.topic("queries"), load.queries)
    await write(settings, settings.topic("feedback"), load.feedback)


def speed(events: int, span_ms: int, cpu_s: float, resident_mb: float) -> Speed:
    """Rate and CPU time of one run."""
    return Speed(events / max(span_ms / 1e3, 1e-3), cpu_s / events * 1e6, resident_mb)


async def worker_speed(settings: Settings, load: Load) -> Speed:
    """One worker, from its first decision to the last record of all it wrote."""
    sources = [settings.topic("queries"), settings.topic("feedback")]
    with worker(settings) as started:
        await ready(settings, started)
        before_s = started.cpu_s
        await until_committed(settings, settings.application_id, sources, PATIENCE_S)
        cpu_s, resident_mb = started.cpu_s - before_s, started.resident_mb
    written = [settings.topic("decisions"), *(settings.changelog(table) for table in topics.TABLES)]
    times = [await edge_times(settings, name) for name in written]
    first = times[0][0]
    return speed(load.events, max(last for _, last in times) - first, cpu_s, resident_mb)


async def peer_speed(settings: Settings, load: Load, name: str, command: list[str]) -> Speed:
    """A process that writes one record to a topic of its own for every event."""
    target = settings.topic(name)
    new = NewTopic(target, PARTITIONS, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})
    async with connect.admin(settings) as client:
        await client.create_topics([new])
    sources = [settings.topic("queries"), settings.topic("feedback")]
    log = settings.data_dir / f"{name}.log"
    with process([*command, target, *sources], {}, log) as started:
        await until_written(settings, target, load.events, PATIENCE_S)
        cpu_s, resident_mb = started.cpu_s, started.resident_mb
    first, last = await edge_times(settings, target)
    return speed(load.events, last - first, cpu_s, resident_mb)


async def latencies_ms(settings: Settings, started: Process, load: Load, queries_per_s: float) -> list[float]:
    """From the query's broker time to its decision's, at this rate of queries and as many feedback records."""
    await ready(settings, started)
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
        began, acknowledged = time.monotonic(), []
        for number, (query, feedback) in enumerate(zip(load.queries, load.feedback, strict=True)):
            await asyncio.sleep(max(0.0, began + number / queries_per_s - time.monotonic()))
            acknowledged.append(await producer.send(settings.topic("queries"), query[1], query[0]))
            await producer.send(settings.topic("feedback"), feedback[1], feedback[0])
        asked = {}
        for sent in acknowledged:
            metadata = await sent
            asked[metadata.partition, metadata.offset] = metadata.timestamp
        await producer.flush()
    await until_written(settings, settings.topic("decisions"), len(load.queries), PATIENCE_S)
    found = []
    async for record in read(settings, settings.topic("decisions")):
        source = orjson.loads(record.value)["source"]
        found.append(float(record.timestamp - asked[source["partition"], source["offset"]]))
    return found


def encoder_cpu_us(load: Load) -> float:
    """CPU time of the default encoder for one text of this load, in batches as a worker makes them."""
    settings = Settings()
    encoder = SentenceEncoder(settings.encoder, settings.embedding_dim)
    texts = [orjson.loads(value)["text"] for _, value in load.queries]
    encoder.encode(texts[:MAX_BATCH])  # loads it
    began = time.process_time()
    for start in range(0, len(texts), MAX_BATCH):
        encoder.encode(texts[start : start + MAX_BATCH])
    return (time.process_time() - began) / len(texts) * 1e6


async def measure(address: str, folder: Path, arguments: argparse.Namespace, *, text: bool) -> dict[str, list[Speed]]:
    """All systems in turn, so many times."""
    speeds: dict[str, list[Speed]] = defaultdict(list)
    for repetition in range(arguments.repetitions):
        load = make_load(arguments.texts if text else arguments.queries, repetition, text=text)
        settings = await deploy(address, folder / f"{text}-{repetition}")
        settings.data_dir.mkdir()
        await preload(settings, load)
        python = [sys.executable, str(SYSTEMS / "bare_kafka.py"), address, str(load.events)]
        speeds[BARE].append(await peer_speed(settings, load, "bare", python))
        speeds[OURS].append(await worker_speed(settings, load))
        if arguments.peer:
            state = str(settings.data_dir / "quix")
            quix = [arguments.peer, str(SYSTEMS / "quix_stateful.py"), address, settings.topic("quix"), state]
            speeds[QUIX].append(await peer_speed(settings, load, "quixout", quix))
    return speeds


async def measure_latency(address: str, folder: Path, arguments: argparse.Namespace, rate: float) -> list[list[float]]:
    """One list of latencies a repetition, of the embedding load; the first seconds warm up and are left out."""
    found = []
    for repetition in range(arguments.repetitions):
        queries = max(100, int(rate * (WARM_UP_S + arguments.seconds)))
        settings = await deploy(address, folder / f"latency-{repetition}")
        with worker(settings) as started:
            values = await latencies_ms(settings, started, make_load(queries, repetition, text=False), rate)
        found.append(values[int(rate * WARM_UP_S) :])
    return found


def show(console: Console, title: str, speeds: dict[str, list[Speed]]) -> None:
    """Medians, and the rate as a share of the bare loop's in the same repetition."""
    table = Table(title=title)
    for column in ("system", "events/s", "of the bare loop", "CPU µs an event", "of the bare loop", "MB"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, found in speeds.items():
        pairs = list(zip(found, speeds[BARE], strict=True))
        table.add_row(
            name,
            f"{statistics.median(one.events_per_s for one in found):,.0f}",
            f"{statistics.median(one.events_per_s / bare.events_per_s for one, bare in pairs):.3f}",
            f"{statistics.median(one.cpu_us for one in found):,.0f}",
            f"{statistics.median(one.cpu_us / bare.cpu_us for one, bare in pairs):.2f}",
            f"{statistics.median(one.resident_mb for one in found):.0f}",
        )
    console.print(table)


def show_latency(console: Console, rate: float, found: list[list[float]]) -> None:
    """Medians of the repetitions' percentiles."""
    table = Table(title=f"query to decision, ms, at {rate:,.0f} queries/s and as many feedback records")
    for level in (50, 95, 99):
        table.add_column(f"p{level}", justify="right")
    table.add_row(*(f"{statistics.median(np.percentile(one, level) for one in found):.0f}" for level in (50, 95, 99)))
    console.print(table)


async def run(address: str, folder: Path, arguments: argparse.Namespace, console: Console) -> None:
    """Measure and print."""
    speeds = await measure(address, folder, arguments, text=False)
    show(console, f"{arguments.queries:,} queries with 384 floats as JSON, as many feedback records", speeds)
    if arguments.texts:
        texts = await measure(address, folder, arguments, text=True)
        show(console, f"{arguments.texts:,} queries with a text of 30 words, as many feedback records", texts)
        encoding = encoder_cpu_us(make_load(arguments.texts, 0, text=True))
        share = encoding / (2 * statistics.median(one.cpu_us for one in texts[OURS]))
        console.print(f"the encoder alone: {encoding:,.0f} µs of CPU a text, {share:.0%} of the worker's")
    if arguments.seconds:
        rate = statistics.median(one.events_per_s for one in speeds[OURS]) / 4
        show_latency(console, rate, await measure_latency(address, folder, arguments, rate))


def main(arguments: argparse.Namespace) -> None:
    """One broker for everything."""
    console = Console()
    if not arguments.peer:
        console.print("Quix Streams is left out: name an interpreter that has it with --peer")
    with broker() as address, tempfile.TemporaryDirectory(prefix="pilot-bench-") as folder:
        asyncio.run(run(address, Path(folder), arguments, console))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--queries", type=int, default=10_000, help="with embeddings, preloaded")
    parser.add_argument("--texts", type=int, default=300, help="with texts, preloaded; 0: none")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the latency measurement; 0: none")
    parser.add_argument("--peer", default="", help="a Python interpreter with quixstreams")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
