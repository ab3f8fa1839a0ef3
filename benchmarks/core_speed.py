"""How many decide + learn cycles a second the core does on one CPU, beside other people's bandits.

Every system gets the same contexts (d = 26), rewards and costs and one BLAS thread. Ours is the
whole Router: scores with uncertainty, cost estimates, eligibility, the user's budget and its
pacing, the verdict with all candidates, and an update of reward and cost model. One by one every
outcome is learned exactly before the next decision, as in `pilot evaluate`; micro-batches run as in
the worker, with tokens and a price list, where feedback adds to sums that are solved now and then.
A verdict keeps its candidates as columns; `candidates read` makes a row of each as well. The others
do what they offer: ParetoBandit prices and paces, the libraries know no money. Times are CPU time
of the thread, so other programs disturb less; repetitions of all systems are interleaved, in the
same process, and medians are printed.

    python benchmarks/core_speed.py --repetitions 7
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from systems import System, missing
from systems.pilot import CandidateReader, PilotBatches, PilotRouter
from systems.stream import DIMENSION, Stream, make_prior, make_stream
from threadpoolctl import threadpool_limits

from worker.core.router import RouterOptions

ARMS = (3, 5, 11)
BATCH = 32
QUERIES = 4_000
WARM_UP = 200  # cycles before the clock starts
FEW = 600  # queries for the systems that take a millisecond each
REFERENCE = "ParetoBandit"
OURS = "PILOT router"

Measure = Callable[[], float]


def cycles_per_s(system: System, stream: Stream) -> float:
    """Decide and learn one by one: cycles per second of CPU time."""
    rewards, costs, contexts = stream.rewards.tolist(), stream.costs.tolist(), list(stream.contexts)

    def run(first: int, last: int) -> None:
        for number in range(first, last):
            x = contexts[number]
            arm = system.decide(x)
            system.learn(arm, x, rewards[number][arm], costs[number][arm])

    run(0, WARM_UP)
    began = time.thread_time()
    run(WARM_UP, len(contexts))
    return (len(contexts) - WARM_UP) / (time.thread_time() - began)


def batch_cycles_per_s(system: PilotBatches, stream: Stream) -> float:
    """The same in batches of `BATCH`."""
    requests, outcomes = system.requests(stream), system.outcomes(stream)
    starts = range(0, len(requests) - BATCH + 1, BATCH)
    began = time.thread_time()
    for start in starts:
        part = slice(start, start + BATCH)
        system.cycle(requests[part], outcomes[part])
    return len(starts) * BATCH / (time.thread_time() - began)


def decide_times(system: System, stream: Stream) -> np.ndarray:
    """CPU time in µs of every decision of the stream."""
    times = []
    for x, reward, cost in zip(stream.contexts, stream.rewards, stream.costs, strict=True):
        began = time.thread_time_ns()
        arm = system.decide(x)
        times.append(time.thread_time_ns() - began)
        system.learn(arm, x, float(reward[arm]), float(cost[arm]))
    return np.array(times[WARM_UP:]) / 1e3


def makers(arms: int, stream: Stream, known: Stream) -> dict[str, Callable[[], System]]:
    """One by one systems by name, as fresh as they are asked for."""
    limit, queries = stream.allowed_usd * len(stream.contexts), len(stream.contexts)
    warm, cold = make_prior(known, warm=True), make_prior(known, warm=False)
    options = RouterOptions(costs="table", open_decisions=False)
    short = RouterOptions(costs="table", open_decisions=False, detail="chosen")
    found: dict[str, Callable[[], System]] = {
        OURS: lambda: PilotRouter(warm, limit, queries, options),
        f"{OURS}, candidates read": lambda: CandidateReader(warm, limit, queries, options),
        f"{OURS}, no candidates": lambda: PilotRouter(warm, limit, queries, short),
        f"{OURS}, cold, open decisions": lambda: PilotRouter(cold, limit, queries, RouterOptions(costs="table")),
    }
    if not missing(["pareto_bandit"]):
        from systems.paretobandit import ParetoBandit

        means = known.costs.mean(axis=0)
        found[REFERENCE] = lambda: ParetoBandit(means, stream.allowed_usd, DIMENSION)
    from systems.libraries import MabwiserLinUcb, PlainLoop, RiverLinUcb

    if not missing(["river"]):
        found["river LinUCBDisjoint"] = lambda: RiverLinUcb(arms)
    if not missing(["mabwiser"]):
        found["MABWiser LinUCB"] = lambda: MabwiserLinUcb(arms, stream.contexts)
    found["plain NumPy Sherman-Morrison"] = lambda: PlainLoop(arms, DIMENSION)
    return found


def measure(arms: int, repetitions: int, queries: int) -> dict[str, list[float]]:
    """Cycles a second by system, one value a repetition; the systems take turns."""
    figures: dict[str, list[float]] = defaultdict(list)
    known = make_stream(1_000, arms, seed=0)
    for repetition in range(repetitions):
        stream = make_stream(queries, arms, seed=repetition + 1)
        few = Stream(stream.contexts[:FEW], stream.rewards[:FEW], stream.costs[:FEW])
        for name, make in makers(arms, stream, known).items():
            slow = name.startswith(("river", "MABWiser"))
            figures[name].append(cycles_per_s(make(), few if slow else stream))
        batches = PilotBatches(known, stream.allowed_usd * queries, queries)
        figures[f"{OURS}, batches of {BATCH}"].append(batch_cycles_per_s(batches, stream))
    return figures


def show(figures: dict[int, dict[str, list[float]]], console: Console) -> None:
    """Medians, and how many times as fast as ParetoBandit, for each number of arms."""
    table = Table(title=f"decide + learn cycles per CPU second, d = {DIMENSION}, median (× {REFERENCE})")
    table.add_column("system", no_wrap=True)
    for arms in figures:
        table.add_column(f"K = {arms}", justify="right", no_wrap=True)
    for name in next(iter(figures.values())):
        cells = []
        for measured in figures.values():
            speed = float(np.median(measured[name]))
            ratio = speed / float(np.median(measured[REFERENCE])) if REFERENCE in measured else None
            cells.append(f"{speed:,.0f}" + ("" if ratio is None else f" ({ratio:.2f}×)"))
        table.add_row(name, *cells)
    console.print(table)


def show_decisions(arms: int, queries: int, console: Console) -> None:
    """Percentiles of the time of one decision."""
    stream, known = make_stream(queries, arms, seed=1), make_stream(1_000, arms, seed=0)
    table = Table(title=f"CPU time of one decision in µs, K = {arms}")
    for column in ("system", "p50", "p95", "p99"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for name, make in makers(arms, stream, known).items():
        if not name.startswith(("river", "MABWiser")):
            p50, p95, p99 = np.percentile(decide_times(make(), stream), [50, 95, 99])
            table.add_row(name, f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}")
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--arms", type=int, nargs="+", default=ARMS)
    arguments = parser.parse_args()
    console = Console(width=140)
    with threadpool_limits(1):
        figures = {arms: measure(arms, arguments.repetitions, arguments.queries) for arms in arguments.arms}
        show(figures, console)
        show_decisions(arguments.arms[len(arguments.arms) // 2], arguments.queries, console)


if __name__ == "__main__":
    main()
