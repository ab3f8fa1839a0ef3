from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from worker.demo import progress
from worker.demo.data import Dataset
from worker.demo.tally import Tally


async def test_without_a_terminal_progress_is_plain_lines(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets whole lines with the figures and no control sequences."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    written = io.StringIO()
    tally = Tally(tiny)
    tally.sent["queries"] = 3
    showing = asyncio.create_task(progress.show(Console(file=written, width=200), tally, planned=8))
    while not written.getvalue():  # noqa: ASYNC110 - a stream has no event
        await asyncio.sleep(0)
    showing.cancel()
    first = written.getvalue().splitlines()[0]
    assert first.strip().startswith("queries 3 of 8, decisions 0")
    assert "\x1b" not in written.getvalue()


def test_step_is_one_line_when_it_is_done() -> None:
    """A finished step says how long it took."""
    written = io.StringIO()
    with progress.step(Console(file=written, width=80), "topics") as say:
        say("half way")
    assert written.getvalue().split()[0] == "topics"
    assert written.getvalue().rstrip().endswith("s")


def test_failed_step_is_not_reported_as_done() -> None:
    """A step that raises prints nothing of its own."""
    written = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress.step(Console(file=written), "topics"):
        raise ZeroDivisionError
    assert written.getvalue() == ""
