"""What being observed costs: queries and feedback through the agents' handlers, without Kafka.

Three parts are timed apart, for their difference would drown in noise: the work itself (decide and
settle), comparing and describing each decision for observers, and the observers' own work, metrics
and logs as in a worker. Times are CPU time of the thread, medians over repetitions in one process.
Then what a scrape, the status document and the sums over many users take.

    python benchmarks/observe_overhead.py --repetitions 7
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from worker.core.prior import Prior, default_prior
from worker.core.router import Router, RouterOptions
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog
from worker.kafka.partitioning import partition_of
from worker.observe import Observer, Observers
from worker.observe import Record as ObservedRecord
from worker.observe.budgets import BudgetBook
from worker.observe.logs import LogObserver
from worker.observe.prometheus import PrometheusObserver
from worker.observe.status import Status
from worker.observe.vitals import About, BudgetUse, Vitals
from worker.settings import Settings
from worker.stream.batch import Journal, SourceRecord
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import State

PARTITIONS = 4
USERS = 50
MANY_USERS = 100_000
START_MS = 19_675 * 86_400_000
Stream = list[tuple[SourceRecord, SourceRecord]]


@dataclass
class Times:
    """CPU seconds of one run, by part."""

    work: float = 0.0
    describing: float = 0.0
    observing: float = 0.0


class Recorder:
    """Keeps what it observes."""

    def __init__(self) -> None:
        self.records: list[ObservedRecord] = []

    def observe(self, record: ObservedRecord) -> None:
        """Keep it."""
        self.records.append(record)


class Lane:
    """Both handlers over one journal; what they emit goes nowhere."""

    def __init__(self, prior: Prior, models: int, observer: Observer) -> None:
        self._journal = Journal(State(lambda *_: None, lambda *_: None, lambda *_: None))
        router = Router(prior, RouterOptions())
        catalog, budgets = Catalog(on_change=lambda: router.set_arms(catalog.arms)), Budgets()
        for number in range(models):
            content = {"model": f"m{number}", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.1 * 1.6**number}
            catalog.apply(Record(0, number, 0, content["model"].encode(), json.dumps(content).encode()))
        budgets.apply(Record(0, 0, 0, b"*", b'{"limit_usd": 10}'))
        sweeper = SimpleNamespace(watch=lambda *_: None, watch_window=lambda *_: None)
        shared: Any = {
            "settings": Settings(), "partitions": PARTITIONS, "tenure": SimpleNamespace(journal=self._journal),
            "sweeper": sweeper, "catalog": catalog, "observer": observer,
        }  # fmt: skip
        self._route = RouteHandler(
            **shared, router=router, projection=prior.projection, encoder=SimpleNamespace(), budgets=budgets
        )
        self._settle = SettleHandler(**shared)

    def run(self, stream: Stream) -> Times:
        """Decide, acknowledge, settle and learn."""
        times = Times()
        for query, feedback in stream:
            began = time.thread_time()
            self._route.handle(query, self._route.prepare(query))
            self._settle.handle(feedback, self._settle.prepare(feedback))
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


def measure(models: int, repetitions: int, queries: int) -> Times:
    """Medians of µs a query with its feedback."""
    prior = default_prior()
    stream = events(queries, prior.projection.embedding_dimension)
    runs: list[Times] = []
    for _ in range(repetitions + 1):
        recorder = Recorder()
        times = Lane(prior, models, recorder).run(stream)
        observers = Observers(PrometheusObserver(), LogObserver())
        began = time.thread_time()
        for record in recorder.records:
            observers.observe(record)
        times.observing = time.thread_time() - began
        runs.append(times)
    warm = runs[1:]
    parts = ("work", "describing", "observing")
    return Times(*(float(np.median([getattr(run, part) for run in warm])) / queries * 1e6 for part in parts))


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
    print(f"a scrape                      {median_ms(metrics.exposition):6.1f} ms")
    print(f"the status document           {median_ms(status.document):6.1f} ms")
    print(f"sums over {MANY_USERS:,} users       {median_ms(lambda: book.use(0.0, lambda _: 10**9)):6.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--queries", type=int, default=1_500)
    chosen = parser.parse_args()
    print("µs of CPU a query and its feedback")
    print("models    work  describing  observing  speed, observed ÷ not")
    for models in (5, 11, 30):
        times = measure(models, chosen.repetitions, chosen.queries)
        share = times.work / (times.work + times.describing + times.observing)
        print(f"{models:6} {times.work:7.1f} {times.describing:11.1f} {times.observing:10.1f} {share:22.3f}")
    show_reading()


if __name__ == "__main__":
    main()
