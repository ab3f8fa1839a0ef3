"""Exits: which code a part that cannot go on leaves behind. In real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from worker.errors import ExitCode, OperationFailed, UsageError, WorkerMustStop
from worker.stream import exits

async def main():
    async def work():
        {statement}
    {run}
    await asyncio.sleep(0.05)
    print("went on")

asyncio.run(main())
"""
WATCHED = 'task = exits.watched("part", work())'
GUARDED = 'await exits.guarded("part", lambda stream: work())(None)'


def ended(statement: str, run: str = WATCHED) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(statement=statement, run=run)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ('raise WorkerMustStop(ExitCode.SEND_FAILED, "a send failed for good")', 72),
        ('raise UsageError("PILOT_PRIOR: no such file")', 2),
        ('raise OperationFailed("no broker")', 1),
        ('raise KeyError("bug")', 1),
        ("raise SystemExit(5)", 1),
    ],
)
def test_failing_part_ends_the_process_with_its_code(statement: str, code: int) -> None:
    """The code of the contract, and the reason in the log, at once: nothing goes on."""
    done = ended(statement)
    assert done.returncode == code
    assert "went on" not in done.stdout
    assert statement.split('"')[1] if '"' in statement else "part" in done.stdout + done.stderr


def test_failing_agent_ends_the_process() -> None:
    """Faust would acknowledge the event and go on."""
    done = ended('raise WorkerMustStop(ExitCode.HOLE, "records are missing")', GUARDED)
    assert done.returncode == 70
    assert "records are missing" in done.stdout + done.stderr


@pytest.mark.parametrize("run", [WATCHED, GUARDED])
def test_part_that_ends_well_ends_nothing(run: str) -> None:
    """A part may finish, and a cancelled one is no failure."""
    assert ended("pass", run).stdout == "went on\n"
    cancelled = ended("await asyncio.sleep(9)", WATCHED + "\n    await asyncio.sleep(0)\n    task.cancel()")
    assert (cancelled.returncode, cancelled.stdout) == (0, "went on\n")
