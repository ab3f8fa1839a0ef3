"""Load at full size on a broker of its own: `python -m tests.load --fuzz 100000 --users 100000`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.broker.support import deployed
from tests.load.scenarios import PARTITIONS, Crowd, Figures
from worker.kafka import local

MODELS = [{"model": "only", "input_usd": 1.0, "output_usd": 2.0}]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--huge", type=int, default=200, help="records of 1 MiB")
    parser.add_argument("--deep", type=int, default=1_000, help="records of 10,000 levels")
    parser.add_argument("--fuzz", type=int, default=100_000, help="fuzzed records")
    parser.add_argument("--duplicates", type=int, default=20_000, help="of one query and its feedback")
    parser.add_argument("--open", type=int, default=20_000, help="queries of one user")
    parser.add_argument("--users", type=int, default=100_000, help="users with a query and a bill each")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzed records")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that worker and broker are stopped
    with tempfile.TemporaryDirectory(prefix="load-") as temporary:
        folder = Path(temporary)
        try:
            broker = local.start(0, folder / "kafka")
            with deployed(broker, folder / "load", MODELS, PARTITIONS, decision_detail="chosen") as deployment:
                _report(_run(Crowd(deployment, lambda line: print(line, file=sys.stderr, flush=True)), options))
        finally:
            local.stop(folder / "kafka")
    return 0


def _run(crowd: Crowd, options: argparse.Namespace) -> Iterator[Figures]:
    sizes = {
        crowd.huge: options.huge, crowd.deep: options.deep, crowd.duplicates: options.duplicates,
        crowd.one_user: options.open, crowd.many_users: options.users,
    }  # fmt: skip
    for scenario, count in sizes.items():
        if count:
            yield scenario(count)
    if options.fuzz:
        yield crowd.fuzz(options.fuzz, options.seed)


def _report(figures: Iterator[Figures]) -> None:
    print("| load | records | seconds | records/s | worker MiB before | after |\n|---|---|---|---|---|---|")
    for found in figures:
        rate = found.records / found.seconds
        print(
            f"| {found.name} | {found.records:,} | {found.seconds:.0f} | {rate:,.0f} "
            f"| {found.rss_before:.0f} | {found.rss_after:.0f} |",
            flush=True,
        )


sys.exit(main())
