"""What lists look like: a table for people, one JSON array for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from worker.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]

_PIPED_WIDTH = 10_000
_GAP = 2
_READABLE = 24  # columns that a text needs to be read when it is folded

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON array of objects and nothing else.")


out_file = click.Path(path_type=Path, dir_okay=False)


def in_a_folder(_ctx: click.Context, parameter: click.Parameter, out: Path | None) -> Path | None:
    """Callback of an option that names a file to write: hours of work must not end at a folder that is not there.

    Raises:
        UsageError: there is no such folder.
    """
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"{parameter.opts[0]} {out}: no folder {out.parent}; create it first")
    return out


def show(rows: Sequence[Row], headings: Mapping[str, str], *, as_json: bool, empty: str) -> None:
    """Print the rows; for people the columns that have a heading, or the line `empty`."""
    if as_json:
        import orjson

        print(orjson.dumps(list(rows)).decode())
    elif not rows:
        print(empty)
    else:
        _table(rows, headings)


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _table(rows: Sequence[Row], headings: Mapping[str, str]) -> None:
    from rich.console import Console

    cells = [[_cell(row[name]) for name in headings] for row in rows]
    terminal = sys.stdout.isatty()
    # Piped to grep or awk, a row must stay one line.
    console = Console(width=None if terminal else _PIPED_WIDTH)
    numeric = [all(isinstance(row[name], int | float | None) for row in rows) for name in headings]
    if _needed(list(headings.values()), cells, numeric[-1]) > console.width:
        _list(list(headings.values()), cells)
        return
    console.print(_grid(list(headings.values()), cells, numeric))


def _grid(headings: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> Table:
    """One line a row; only a text in the last column may be folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for number, heading in enumerate(headings):
        folds = number == len(headings) - 1 and not numeric[number]
        justify: Literal["left", "right"] = "right" if numeric[number] else "left"
        table.add_column(heading, justify=justify, no_wrap=not folds, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _needed(headings: Sequence[str], cells: Sequence[Sequence[str]], last_is_number: bool) -> int:
    """Columns of a terminal that a table needs at least."""
    from rich.cells import cell_len

    widths = [
        max(*(cell_len(line) for line in heading.splitlines()), *(cell_len(cell) for cell in column))
        for heading, column in zip(headings, zip(*cells, strict=True), strict=True)
    ]
    last = widths[-1] if last_is_number else min(widths[-1], _READABLE)
    return sum(widths[:-1]) + _GAP * (len(widths) - 1) + last


def _list(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """One line a value, for a terminal on which a table would be cut to pieces."""
    names = [" ".join(heading.split()) for heading in headings]
    width = max(map(len, names))
    print("\n\n".join("\n".join(f"{n:<{width}}  {cell}" for n, cell in zip(names, row, strict=True)) for row in cells))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
