"""Exits: which code a part that cannot go on leaves behind. In real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.observe.last_exit import ExitNote

PROGRAM = """
import asyncio
from pathlib import Path
from worker.errors import ExitCode, OperationFailed, UsageError, WorkerMustStop
from worker.observe.last_exit import ExitNote
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


@pytest.mark.parametrize(
    ("statement", "code", "reason", "detail"),
    [
        ('raise WorkerMustStop(ExitCode.HOLE, "missing")', 70, "hole", "part: missing"),
        ('raise KeyError("bug")', 1, "failed", "part: KeyError('bug')"),
        ("exits.leave(ExitCode.OK)", 0, "ok", ""),
        ("import os; os._exit(9)", None, "killed", "the process ended without a word"),
    ],
)
def test_exit_leaves_a_note_for_the_next_start(
    tmp_path: Path, statement: str, code: int | None, reason: str, detail: str
) -> None:
    """Code, reason and text of the last exit; a process that was killed is told from one that left."""
    ended(f"exits.remember(ExitNote(Path({str(tmp_path)!r}))); {statement}")
    found = ExitNote(tmp_path).read()
    assert found is not None
    assert (found.code, found.reason, found.detail) == (code, reason, detail)
