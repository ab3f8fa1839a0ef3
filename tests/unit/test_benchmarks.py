"""Benchmarks and scripts run, so that a change of the worker does not break them unseen."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
DEFAULT_PRIOR = ROOT / "scripts" / "make_default_prior.py"
SMALLEST = {
    "core_speed.py": "--queries 320 --repetitions 1 --arms 2",
    "growth.py": "--users 20 --days 0.5",
    "handlers.py": "--queries 64 --repetitions 1",
    "store_speed.py": "--keys 100 --turns 1 --batches 1",
}
LARGE = ("head_to_head.py", "recovery.py", "routing_studies.py", "throughput.py")  # need a broker or real prompts
WITHOUT_A_BROKER = ("observe_overhead.py", "table_battles.py")
PARTS = ("deployment.py", "plain_metrics.py")

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """What a script prints that is run in this process; it must end without an error."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def begin(script: Path, *arguments: str) -> str:
        monkeypatch.syspath_prepend(str(script.parent))
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        code = None
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code
        return capsys.readouterr().out

    return begin


def test_every_benchmark_is_tried() -> None:
    """Each script of the folder has a test here."""
    assert {path.name for path in FOLDER.glob("*.py")} == {*SMALLEST, *LARGE, *WITHOUT_A_BROKER, *PARTS}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_run_prints_figures(run: Run, name: str) -> None:
    """With little to do it measures something and says it."""
    assert re.search(r"\d", run(FOLDER / name, *SMALLEST[name].split()))


@pytest.mark.parametrize("script", [*(FOLDER / name for name in LARGE), DEFAULT_PRIOR], ids=lambda path: path.stem)
def test_what_takes_long_can_begin(run: Run, script: Path) -> None:
    """All that it imports is there."""
    assert run(script, "--help").startswith("usage: ")


def test_battles_are_made_of_a_table(run: Run, tmp_path: Path) -> None:
    """Ten prompts with three scores each give battles between the models."""
    scores = {f"reward:{model}": [place / 2] * 10 for place, model in enumerate("abc")}
    costs = {f"cost:{model}": [0.001] * 10 for model in "abc"}
    table = tmp_path / "table.parquet"
    pd.DataFrame({"prompt": [f"prompt {number}" for number in range(10)], **scores, **costs}).to_parquet(table)
    run(FOLDER / "table_battles.py", str(table), str(tmp_path / "votes.parquet"))
    assert len(pd.read_parquet(tmp_path / "votes.parquet")) == 30


def test_the_cost_of_observing_can_be_measured() -> None:
    """A short run prints a figure for every number of models, for traces, and for those who look."""
    command = [sys.executable, "benchmarks/observe_overhead.py", "--repetitions", "1", "--queries", "64"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert {"5", "11", "30", "off", "all", "sums"} <= {words[0] for words in lines}
    assert all(float(words[-1]) > 0 for words in lines if words[0] in ("5", "11", "30", "off", "all"))
