"""What a lane keeps over a week of many users: `python -m benchmarks.growth --users 100000`.

Simulated time, the worker's own handlers, sweeper and codecs, no broker. The last row comes after four days of silence.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tests.simulation.week import Week

_MIB = 1024 * 1024


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--per-day", type=float, default=0.4)
    parser.add_argument("--days", type=float, default=7.0)
    options = parser.parse_args()
    began = time.monotonic()
    print("| day | queries | decisions | parked | user windows | sweeper's entries | state MiB | process MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for found in Week(options.users, options.per_day).run(options.days):
        print(
            f"| {found.day:.1f} | {found.queries:,} | {found.decisions:,} | {found.parked:,} | {found.windows:,} "
            f"| {found.sweeper:,} | {found.stored_bytes / _MIB:.1f} | {rss_mib():.0f} |",
            flush=True,
        )
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
