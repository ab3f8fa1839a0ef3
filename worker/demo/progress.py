"""What the terminal shows while the demo runs: steps of the set-up, then the stream live.

On a terminal the stream is a table that changes in place; elsewhere it is one plain line
every few seconds, so that a log stays readable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.demo.tally import Tally

REFRESH_S = 0.25
LINE_EVERY_S = 5.0


class Step:
    """A step of the set-up under way; call it to show what it is doing."""

    def __init__(self, console: Console, title: str) -> None:
        self._status = console.status(title) if console.is_terminal else None

    def __call__(self, text: str) -> None:
        """Replace the text beside the spinner, on a terminal."""
        if self._status is not None:
            self._status.update(text)

    def start(self) -> None:
        """Show the spinner, on a terminal."""
        if self._status is not None:
            self._status.start()

    def stop(self) -> None:
        """Take it away."""
        if self._status is not None:
            self._status.stop()


@contextmanager
def step(console: Console, title: str) -> Iterator[Step]:
    """Time a step and print one line when it is done."""
    begin, current = time.monotonic(), Step(console, title)
    current.start()
    try:
        yield current
    finally:
        current.stop()
    console.print(f"  {title} [dim]{time.monotonic() - begin:.1f} s[/dim]", highlight=False)


async def show(console: Console, tally: Tally, planned: int) -> None:
    """Show the stream until cancelled."""
    if not console.is_terminal:
        await _lines(console, tally, planned)
        return
    with Live(_table(tally, planned), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(_table(tally, planned), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _lines(console: Console, tally: Tally, planned: int) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        console.print("  " + ", ".join(f"{name} {value}" for name, value in _figures(tally, planned)), highlight=False)


def _table(tally: Tally, planned: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in _figures(tally, planned):
        table.add_row(f"  [dim]{name}[/dim]", value)
    return table


def _figures(tally: Tally, planned: int) -> list[tuple[str, str]]:
    return [
        ("queries", f"{tally.sent['queries']:,} of {planned:,}"),
        ("decisions", f"{len(tally.answers):,}"),
        ("rejected", f"{tally.rejected:,}"),
        ("feedback", f"{tally.sent['feedback']:,}"),
        ("dead letters", f"{len(tally.letters):,}"),
        ("spent USD", f"{tally.spent_usd:.4f}"),
        ("of the best's quality", f"{tally.quality_share:.1%}"),
    ]
