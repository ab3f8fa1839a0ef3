"""What lists look like: a table for people, one JSON array for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from worker.errors import UsageError

Row = dict[str, Any]

_PIPED_WIDTH = 10_000

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
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, heading in headings.items():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in headings))
    terminal = sys.stdout.isatty()
    # Piped to grep or awk, a row must stay one line.
    Console(width=None if terminal else _PIPED_WIDTH).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
