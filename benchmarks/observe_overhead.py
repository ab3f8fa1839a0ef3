"""What being observed costs: queries and feedback through the agents' handlers, without Kafka.

The same events with nobody watching, with the records of what happened made for nobody, and with
metrics and logs as in a worker. Times are CPU time of the thread; the variants take turns in one
process, and the ratios of each turn are compared. Then what a scrape, the status document and the
sums over many users take.

    python benchmarks/observe_overhead.py --repetitions 7
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from worker.core.prior import Prior, default_prior
from worker.core.router import Router, RouterOptions
from worker.kafka.compacted import Record
from worker.kafka.control import Budgets, Catalog
from worker.kafka.partitioning import partition_of
from worker.observe import Observers
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
NOBODY, RECORDS, METRICS = "nobody watches", "records are made", "metrics and logs"


class Lane:
    """Both handlers over one journal; what they emit goes nowhere."""

    def __init__(self, prior: Prior, models: int, observers: Observers, *, told: bool) -> None:
        self._told = told
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
            "sweeper": sweeper, "catalog": catalog, "observer": observers,
        }  # fmt: skip
        self._route = RouteHandler(
            **shared, router=router, projection=prior.projection, encoder=SimpleNamespace(), budgets=budgets
        )
        self._settle = SettleHandler(**shared)

    def cycle(self, query: SourceRecord, feedback: SourceRecord) -> None:
        """Decide, acknowledge, settle and learn."""
        self._route.handle(query, self._route.prepare(query))
        self._settle.handle(feedback, self._settle.prepare(feedback))
        batch = self._journal.turn()
        if self._told:
            for call in batch.delivered:
                call()
        self._journal.state.evict(batch.number)


def events(count: int, dimension: int) -> list[tuple[SourceRecord, SourceRecord]]:
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


def cycle_us(lane: Lane, stream: list[tuple[SourceRecord, SourceRecord]]) -> float:
    """CPU time of a cycle in µs."""
    began = time.thread_time()
    for query, feedback in stream:
        lane.cycle(query, feedback)
    return (time.thread_time() - began) / len(stream) * 1e6


def measure(models: int, repetitions: int, queries: int) -> dict[str, list[float]]:
    """µs a cycle by variant, one value a repetition; the variants take turns, in changing order."""
    prior = default_prior()
    stream = events(queries, prior.projection.embedding_dimension)
    variants: list[tuple[str, Callable[[], Lane]]] = [
        (NOBODY, lambda: Lane(prior, models, Observers(), told=False)),
        (RECORDS, lambda: Lane(prior, models, Observers(), told=True)),
        (METRICS, lambda: Lane(prior, models, Observers(PrometheusObserver(), LogObserver()), told=True)),
    ]
    cycle_us(variants[-1][1](), stream)
    figures: dict[str, list[float]] = defaultdict(list)
    for repetition in range(repetitions):
        for name, make in np.roll(np.array(variants, dtype=object), repetition, axis=0):
            figures[name].append(cycle_us(make(), stream))
    return figures


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
    Lane(default_prior(), 11, Observers(metrics), told=True)
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
    for models in (5, 11, 30):
        figures = {
            name: np.array(values) for name, values in measure(models, chosen.repetitions, chosen.queries).items()
        }
        base = figures[NOBODY]
        print(f"{models} models, decide + settle, CPU time a cycle")
        for name in (NOBODY, RECORDS, METRICS):
            extra = float(np.median(figures[name] - base))
            ratio = float(np.median(base / figures[name]))
            print(f"  {name:18} {np.median(figures[name]):7.1f} µs  {extra:+6.1f} µs  speed × {ratio:.3f}")
    show_reading()


if __name__ == "__main__":
    main()
