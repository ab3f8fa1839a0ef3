"""Many worlds: `python -m tests.simulation --worlds 100000 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.machine import Variant
from tests.simulation.test_simulation import failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began, wrong = time.monotonic(), 0
    for seed, found in failures(Variant(), options.worlds, options.seed):
        wrong += 1
        print(seed, *found, sep="\n  ")
    print(f"{options.worlds} worlds, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


sys.exit(main())
