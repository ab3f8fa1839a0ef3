"""Benchmarks that reach into the worker's parts run, so that a change there does not break them unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cost_of_observing_can_be_measured() -> None:
    """A short run prints a figure for every number of models, for traces, and for those who look."""
    command = [sys.executable, "benchmarks/observe_overhead.py", "--repetitions", "1", "--queries", "64"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert {"5", "11", "30", "off", "all", "sums"} <= {words[0] for words in lines}
    assert all(float(words[-1]) > 0 for words in lines if words[0] in ("5", "11", "30", "off", "all"))
