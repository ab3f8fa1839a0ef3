"""A real worker whose wall clock is wrong: `SKEW_S=86400 python -m tests.broker.skewed_worker worker`."""

from __future__ import annotations

import os
import time


def main() -> None:
    skew_s, true = float(os.environ["SKEW_S"]), time.time
    time.time = lambda: true() + skew_s
    from worker.cli import main as pilot

    pilot()


if __name__ == "__main__":
    main()
