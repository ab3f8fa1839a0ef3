"""What being observed costs: queries and feedback through the agents' handlers in chunks, without Kafka.

Three parts are timed apart, for their difference would drown in noise: the work itself (decide and
settle), comparing and describing each decision for observers, and the observers' own work, metrics
and logs as in a worker. The same records then go to prometheus-client's own counters and histograms.
Times are CPU time of the thread, medians over repetitions in one process. Traces are timed in CPU time of the
process, exporter included, and go to a collector in another process that throws them away.
Then what a scrape, the status document and the sums over many users take.
With `--worker` the same questions go to a real worker on a Kafka of its own.

    python benchmarks/observe_overhead.py --repetitions 7
    python benchmarks/observe_overhead.py --worker 3 --queries 4000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from plain_metrics import PlainMetrics

from worker.core.prior import Prior, default_prior
from worker.core.router import Router, RouterOptions
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog
from worker.kafka.partitioning import partition_of
from worker.observe import Observer, Observers, tracing
from worker.observe import Record as ObservedRecord
from worker.observe.budgets import BudgetBook
from worker.observe.identity import disguise
from worker.observe.logs import LogObserver
from worker.observe.prometheus import PrometheusObserver
from worker.observe.status import Status
from worker.observe.tracing import QueryTracer
from worker.observe.vitals import About, BudgetUse, Vitals
from worker.settings import Settings
from worker.stream.batch import Journal, SourceRecord
from worker.stream.drain import CHUNK
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import State

PARTITIONS = 4
USERS = 50
MANY_USERS = 100_000
START_MS = 19_675 * 86_400_000
SAMPLED = {"off": None, "a tenth": "0.1", "all": "1.0"}
ROOMY_QUEUE = "1000000"  # spans that a full queue drops would cost nothing
Stream = list[tuple[SourceRecord, SourceRecord]]


@dataclass
class Times:
    """CPU seconds of one run, by part."""

    work: float = 0.0
    describing: float = 0.0
    observing: float = 0.0
    plainly: float = 0.0


class Recorder:
    """Keeps what it observes."""

    def __init__(self) -> None:
        self.records: list[ObservedRecord] = []

    def observe(self, record: ObservedRecord) -> None:
        """Keep it."""
        self.records.append(record)


class Lane:
    """Both handlers over one journal; what they emit goes nowhere."""

    def __init__(self, prior: Prior, models: int, observer: Observer, tracer: QueryTracer | None = None) -> None:
        self._journal = Journal(State(lambda *_: None, lambda *_: None, lambda *_: None))
        router = Router(prior, RouterOptions())
        catalog, budgets = Catalog(on_change=lambda: router.set_arms(catalog.arms)), Budgets()
        for number in range(models):
            content = {"model": f"m{number}", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.1 * 1.6**number}
            catalog.apply(Record(0, number, 0, content["model"].encode(), json.dumps(content).encode()))
        budgets.apply(Record(0, 0, 0, b"*", b'{"limit_usd": 10}'))
        clock = SimpleNamespace(observe=lambda _: None)
        sweeper = SimpleNamespace(watch=lambda *_: None, watch_window=lambda *_: None, clock=clock)
        shared: Any = {
            "settings": Settings(), "partitions": PARTITIONS, "tenure": SimpleNamespace(journal=self._journal),
            "sweeper": sweeper, "catalog": catalog, "observer": observer,
        }  # fmt: skip
        self._route = RouteHandler(
            **shared, router=router, projection=prior.projection, encoder=SimpleNamespace(), budgets=budgets,
            tracer=tracer,
        )  # fmt: skip
        self._settle = SettleHandler(**shared)

    def run(self, stream: Stream) -> Times:
        """Decide, acknowledge, settle and learn, a chunk at a time."""
        times = Times()
        for start in range(0, len(stream), CHUNK):
            queries, feedback = zip(*stream[start : start + CHUNK], strict=True)
            began = time.thread_time()
            ready: Any = self._route.prepare_many(queries)
            self._route.handle_many(list(zip(queries, ready, strict=True)))
            given = self._settle.prepare_many(feedback)
            self._settle.handle_many(list(zip(feedback, given, strict=True)))
            batch = self._journal.turn()
            self._journal.state.evict(batch.number)
            worked = time.thread_time()
            for call in batch.delivered:
                call()
            times.work += worked - began
            times.describing += time.thread_time() - worked
        return times


def events(count: int, dimension: int) -> Stream:
    """Queries with embeddings, each with its feedback."""
    random = np.random.default_rng(1)
    made = []
    for number in range(count):
        user = f"user-{number % USERS}"
        ids = {"query_id": f"q{number}", "user_id": user}
        embedding = random.standard_normal(dimension).round(4).tolist()
        query = {**ids, "embedding": embedding, "input_tokens": 200}
        feedback = {**ids, "cost_usd": 0.0004, "reward": float(random.random() < 0.7)}
        partition, key = partition_of(user.encode(), PARTITIONS), user.encode()
        first, second = (
            SourceRecord(f"pilot.{topic}", partition, number, START_MS + 40 * number, key, json.dumps(event).encode())
            for topic, event in (("queries", query), ("feedback", feedback))
        )
        made.append((first, second))
    return made


def spent(observer: Observer, records: Sequence[ObservedRecord]) -> float:
    """CPU seconds to take note of these records."""
    began = time.thread_time()
    for record in records:
        observer.observe(record)
    return time.thread_time() - began


def measure(models: int, repetitions: int, queries: int) -> Times:
    """Medians of µs a query with its feedback."""
    prior = default_prior()
    stream = events(queries, prior.projection.embedding_dimension)
    runs: list[Times] = []
    for _ in range(repetitions + 1):
        recorder = Recorder()
        times = Lane(prior, models, recorder).run(stream)
        times.observing = spent(Observers(PrometheusObserver(), LogObserver()), recorder.records)
        times.plainly = spent(Observers(PlainMetrics(), LogObserver()), recorder.records)
        runs.append(times)
    warm = runs[1:]
    parts = ("work", "describing", "observing", "plainly")
    return Times(*(float(np.median([getattr(run, part) for run in warm])) / queries * 1e6 for part in parts))


def show_parts(repetitions: int, queries: int) -> None:
    """What metrics and logs cost, and what they would cost with prometheus-client's own objects."""
    print("µs of CPU a query and its feedback")
    print("models    work  describing  observing  speed, observed ÷ not  observing with prometheus-client's objects")
    for models in (5, 11, 30):
        times = measure(models, repetitions, queries)
        share = times.work / (times.work + times.describing + times.observing)
        parts = f"{models:6} {times.work:7.1f} {times.describing:11.1f} {times.observing:10.1f} {share:22.3f}"
        print(f"{parts} {times.plainly:43.1f}")


def _swallow(address: Connection) -> None:
    """A collector that throws everything away, in a process of its own."""

    class Sink(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    address.send(f"http://127.0.0.1:{server.server_address[1]}")
    server.serve_forever()


@contextmanager
def collector() -> Iterator[None]:
    """Traces go to a collector that throws them away, as long as the block."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_swallow, args=(its,), daemon=True)
    process.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = ours.recv()
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = ROOMY_QUEUE
    os.environ["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
    try:
        yield
    finally:
        process.terminate()
        process.join()


def traced(prior: Prior, stream: Stream, ratio: str | None) -> float:
    """CPU seconds of all threads, until the last span has been sent."""
    if ratio is not None:
        os.environ["OTEL_TRACES_SAMPLER_ARG"] = ratio
    tracer = None if ratio is None else tracing.otlp("bench", disguise("plain"))
    lane = Lane(prior, 11, Observers(PrometheusObserver(), LogObserver()), tracer)
    gc.collect()  # what the run before left
    began = time.process_time()
    lane.run(stream)
    if tracer is not None:
        tracer.close()
    return time.process_time() - began


def show_tracing(repetitions: int, queries: int) -> None:
    """What traces cost beside metrics and logs."""
    prior = default_prior()
    stream = events(queries, prior.projection.embedding_dimension)
    runs: dict[str, list[float]] = defaultdict(list)
    with collector():
        for _ in range(repetitions + 1):
            for name, ratio in SAMPLED.items():
                runs[name].append(traced(prior, stream, ratio) / queries * 1e6)
    print("\ntraces    µs of CPU a query and its feedback  ÷ off")
    for name, found in runs.items():
        ratio = statistics.median(one / off for one, off in zip(found[1:], runs["off"][1:], strict=True))
        print(f"{name:9} {statistics.median(found[1:]):35.1f} {ratio:6.3f}")


async def show_worker(address: str, folder: Path, repetitions: int, queries: int) -> None:
    """What traces cost a real worker, commits and sending included."""
    import throughput
    from deployment import deploy

    runs: dict[str, list[throughput.Speed]] = defaultdict(list)
    for repetition in range(repetitions):
        load = throughput.make_load(queries, repetition, text=False)
        for name, ratio in SAMPLED.items():
            settings = await deploy(address, folder / f"{repetition}-{name}")
            settings.data_dir.mkdir()
            await throughput.preload(settings, load)
            if ratio is not None:
                os.environ["OTEL_TRACES_SAMPLER_ARG"] = ratio
            told = settings.model_copy(update={"tracing": "off" if ratio is None else "otlp"})
            runs[name].append(await throughput.worker_speed(told, load))
    print("traces     events/s  ÷ off  CPU µs an event  ÷ off")
    for name, found in runs.items():
        pairs = list(zip(found, runs["off"], strict=True))
        rate = statistics.median(one.events_per_s / off.events_per_s for one, off in pairs)
        cpu = statistics.median(one.cpu_us / off.cpu_us for one, off in pairs)
        speed, used = (statistics.median(getattr(one, part) for one in found) for part in ("events_per_s", "cpu_us"))
        print(f"{name:9} {speed:9,.0f} {rate:6.3f} {used:16,.0f} {cpu:6.3f}")


def median_ms(work: Callable[[], object], times: int = 9) -> float:
    """Median CPU time in ms."""
    taken = []
    for _ in range(times):
        began = time.thread_time()
        work()
        taken.append((time.thread_time() - began) * 1e3)
    return float(np.median(taken))


def show_reading() -> None:
    """What those who look cost; they look from threads of their own."""
    metrics = PrometheusObserver()
    vitals = Vitals(BudgetUse(0, 1, 0.5))
    about = About("w", "g", "1", "pacing", "default", "quantile", "fp", 0.0)
    status = Status(metrics, lambda: vitals, live=list, ready=list, about=about, last_exit=None)
    prior = default_prior()
    Lane(prior, 11, metrics).run(events(200, prior.projection.embedding_dimension))
    for _ in range(120):
        status.sample()
    book = BudgetBook(3600)
    for number in range(MANY_USERS):
        book.note(f"user-{number}", number, 0)
    print(f"\na scrape                      {median_ms(metrics.exposition):6.1f} ms")
    print(f"the status document           {median_ms(status.document):6.1f} ms")
    print(f"sums over {MANY_USERS:,} users       {median_ms(lambda: book.use(0.0, lambda _: 10**9)):6.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--queries", type=int, default=1_500)
    parser.add_argument("--worker", type=int, default=0, help="repetitions with a real worker; 0: without Kafka")
    chosen = parser.parse_args()
    if chosen.worker:
        from deployment import broker

        with broker() as address, tempfile.TemporaryDirectory(prefix="pilot-bench-") as folder, collector():
            asyncio.run(show_worker(address, Path(folder), chosen.worker, chosen.queries))
        return
    show_parts(chosen.repetitions, chosen.queries)
    show_tracing(chosen.repetitions, chosen.queries)
    show_reading()


if __name__ == "__main__":
    main()
