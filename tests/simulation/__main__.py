"""Many worlds: `python -m tests.simulation --worlds 100000 --seed 1`, or as many as fit into `--seconds`.

A world is its seed and its number, so a run that was stopped goes on with `--first`.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.machine import Variant
from tests.simulation.test_simulation import failures

_STEP = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first world")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    began, done, wrong = time.monotonic(), 0, 0
    while done < options.worlds and time.monotonic() - began < options.seconds:
        for seed, found in failures(Variant(), _STEP, options.seed, first=options.first + done):
            wrong += 1
            print(seed, *found, sep="\n  ")
        done += _STEP
        print(f"{done} of {options.worlds} worlds, {wrong} wrong, {time.monotonic() - began:.0f} s", file=sys.stderr)
    which = f"seed {options.seed}: {done} worlds from {options.first} on"
    print(f"{which}, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


sys.exit(main())
