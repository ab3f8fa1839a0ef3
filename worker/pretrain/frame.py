"""Reads a file of rows, and refuses one whose rows or columns cannot be told apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from worker.errors import UsageError

_NAMED = 12  # columns that a message lists


def read_frame(path: Path) -> pd.DataFrame:
    """A Parquet, CSV or JSONL file as a data frame, by the suffix of its name.

    Raises:
        UsageError: unknown suffix, missing or unreadable file, no rows, or two columns of one name.
    """
    readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: unknown kind of file; use .parquet, .csv or .jsonl")
    if not path.exists():
        raise UsageError(f"{path}: cannot be read: no such file")
    try:
        frame = reader(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or _first_line(error)}") from None
    except ValueError as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise UsageError(f"{path}: cannot be read: {_first_line(error)}; write the file again") from None
    if frame.empty:
        raise UsageError(f"{path}: has no rows")
    return frame


def column(frame: pd.DataFrame, path: Path, name: str, remedy: str = "") -> pd.Series:
    """A column by its name; `remedy` ends the message when there is none.

    Raises:
        UsageError: no such column.
    """
    if name not in frame.columns:
        names = [str(found) for found in frame.columns]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        end = f"; {remedy}" if remedy else ""
        raise UsageError(f"{path}: no column {name!r}; it has {', '.join(names[:_NAMED])}{more}{end}")
    return frame[name]


def read_texts(frame: pd.DataFrame, path: Path, name: str) -> list[str]:
    """The texts of a column, none of them empty.

    Raises:
        UsageError: no such column, or a row without text.
    """
    values: list[Any] = column(frame, path, name, "name the prompts' with --text-column").tolist()
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            found = f"{value!r} is no text" if isinstance(value, int | float) and not pd.isna(value) else "no text"
            raise UsageError(f"{path}: column {name!r}, row {row}: {found}; correct or remove the row")
    return values


def read_labels(frame: pd.DataFrame, path: Path, name: str | None) -> list[str | None]:
    """The task of each row, None where it is empty or no column was named.

    Raises:
        UsageError: no such column.
    """
    if name is None:
        return [None] * len(frame)
    return [None if pd.isna(value) else str(value) for value in column(frame, path, name).tolist()]


def _parquet(path: Path) -> pd.DataFrame:
    from pyarrow.parquet import read_schema

    _refuse_twins(path, read_schema(path).names)
    return pd.read_parquet(path)


def _csv(path: Path) -> pd.DataFrame:
    # pandas would name a second `cost:x` `cost:x.1`, which then looks like another model.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    _refuse_twins(path, [name for name in header.iloc[0] if name])
    # A prompt may well be "NA" or "null": only an empty cell is empty.
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    surplus = not isinstance(frame.index, pd.RangeIndex)  # pandas takes surplus cells for the names of rows
    if surplus:
        raise ValueError("rows have more cells than the first line has names")
    return frame


def _jsonl(path: Path) -> pd.DataFrame:
    # Not with pandas: it keeps the last of two equal names and cannot say which line is damaged.
    return pd.DataFrame.from_records(list(_objects(path)))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line, object_pairs_hook=_distinct)
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise UsageError(
                    f"{path}: cannot be read: line {number}: {reason}; correct or remove the line"
                ) from None
            if not isinstance(found, dict):
                raise UsageError(f"{path}: cannot be read: line {number}: no JSON object; correct or remove the line")
            yield found


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if twin := _twin([name for name, _ in pairs]):
        raise ValueError(f"more than one field is named {twin!r}")
    return dict(pairs)


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    if twin := _twin(names):
        raise UsageError(f"{path}: more than one column is named {twin!r}; rename or remove all but one")


def _twin(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
