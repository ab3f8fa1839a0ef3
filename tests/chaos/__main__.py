"""Many chaos runs: `python -m tests.chaos --runs 10 --seed 1`. Prints one line a run and a table of recovery times."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.chaos.faults import DRAWN, KINDS, OUTAGE_S, draw
from tests.chaos.run import Plan, Recovery, Result, run
from tests.chaos.supervisor import LocalBroker


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count up")
    parser.add_argument("--faults", type=int, default=len(DRAWN), help="in each run")
    parser.add_argument(
        "--kinds",
        nargs="*",
        choices=sorted(KINDS),
        help="exactly these, in order; `full`: FOLDER/kafka must be a mount",
    )
    parser.add_argument("--store", choices=["memory", "rocksdb"], help="of all workers; default: drawn by the seed")
    parser.add_argument("--outage-s", nargs=2, type=float, default=OUTAGE_S, metavar=("MIN", "MAX"), help="its length")
    parser.add_argument("--folder", type=Path, help="where logs and broker data stay; default: a temporary one")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # every broker kill would fill pages
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that workers and broker are stopped
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        broker = LocalBroker.start(folder / "kafka")
        try:
            results = [_one(seed, options, broker, folder) for seed in range(options.seed, options.seed + options.runs)]
        finally:
            broker.stop()
    return _summarise(results)


def _one(seed: int, options: argparse.Namespace, broker: LocalBroker, folder: Path) -> Result:
    rng = random.Random(seed)
    kinds = draw(rng, options.faults) if options.kinds is None else tuple(options.kinds)
    plan = Plan(
        seed, kinds, workers=rng.choice([2, 2, 3]), rate=rng.choice([25.0, 50.0]),
        pause_s=rng.choice([(0.5, 3.0), (3.0, 10.0), (8.0, 16.0)]), park_s=rng.choice([20.0, 300.0]),
        reserve=rng.choice(["quantile", "worst_case"]), store=options.store or rng.choice(["memory", "rocksdb"]),
        outage_s=tuple(options.outage_s),
    )  # fmt: skip
    result = asyncio.run(run(plan, broker, folder))
    _report(result)
    return result


def _report(result: Result) -> None:
    plan, evidence = result.plan, result.evidence
    verdict = "exact" if not result.violations else f"{len(result.violations)} VIOLATIONS"
    print(
        f"seed {plan.seed}: {verdict}; {plan.workers} workers, {plan.store}, {len(evidence.queries)} queries, "
        f"{len(evidence.feedback)} feedback, {len(evidence.letters)} dead letters, {len(result.blows)} faults, "
        f"exits {dict(result.exits)}, {result.seconds:.0f} s",
        flush=True,
    )
    for blow, recovery in zip(result.blows, result.recovered, strict=True):
        print(f"  {blow.kind:15} {blow.whom:9} went on after {recovery or '-'}", flush=True)
    for line in (*result.violations[:20], *result.notes):
        print(f"  ! {line}", flush=True)


def _summarise(results: list[Result]) -> int:
    recovered: dict[str, list[Recovery]] = defaultdict(list)
    for result in results:
        for blow, recovery in zip(result.blows, result.recovered, strict=True):
            recovered[blow.kind] += [] if recovery is None else [recovery]
    print(f"\n{'':15} {'':5} {'in all, s':>17} {'with a broker, s':>19}")
    print(f"{'fault':15} {'times':>5} {'median':>8} {'worst':>8} {'median':>10} {'worst':>8}")
    for kind, times in sorted(recovered.items()):
        whole, own = [each.seconds for each in times], [each.own for each in times]
        print(
            f"{kind:15} {len(times):5} {statistics.median(whole):8.1f} {max(whole):8.1f} "
            f"{statistics.median(own):10.1f} {max(own):8.1f}"
        )
    wrong = [result.plan.seed for result in results if result.violations]
    records = sum(len(result.evidence.queries) + len(result.evidence.feedback) for result in results)
    faults = sum(len(result.blows) for result in results)
    print(f"{len(results)} runs, {faults} faults, {records} records, wrong seeds: {wrong or 'none'}")
    return 1 if wrong else 0


sys.exit(main())
