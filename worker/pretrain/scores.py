"""Reads a table of prompts × models with scores and costs, and refuses one that cannot be trusted.

One row a prompt: a text column, optionally a task column, and per model one reward
and one cost column whose names are a prefix and the model (`reward:gpt-4`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from worker.core.verdict import FloatArray
from worker.errors import UsageError


@dataclass(frozen=True)
class Scores:
    """n prompts × K models: rewards 0 to 1 and costs in USD, both of shape (n, K)."""

    prompts: list[str]
    tasks: list[str | None]
    models: tuple[str, ...]
    rewards: FloatArray
    costs: FloatArray


def read_scores(
    path: Path,
    *,
    text_column: str = "prompt",
    reward_prefix: str = "reward:",
    cost_prefix: str = "cost:",
    task_column: str | None = None,
    models: Sequence[str] = (),
) -> Scores:
    """Read Parquet, CSV or JSONL, by the suffix of the name.

    Raises:
        UsageError: file, column and row of what is missing, no number, negative or out of range.
    """
    frame = read_frame(path)
    if frame.empty:
        raise UsageError(f"{path}: has no rows")
    chosen = _models(frame, path, reward_prefix, models)
    rewards = np.column_stack([_numbers(frame, path, reward_prefix + model, most=1.0) for model in chosen])
    costs = np.column_stack([_numbers(frame, path, cost_prefix + model) for model in chosen])
    return Scores(read_texts(frame, path, text_column), read_labels(frame, path, task_column), chosen, rewards, costs)


def read_frame(path: Path) -> pd.DataFrame:
    """A Parquet, CSV or JSONL file as a data frame.

    Raises:
        UsageError: unknown suffix, missing or unreadable file.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        if suffix == ".csv":
            return pd.read_csv(path)
        if suffix in {".jsonl", ".ndjson"}:
            return pd.read_json(path, lines=True, precise_float=True)
    except (OSError, ValueError) as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise UsageError(f"{path}: cannot be read: {error}") from None
    raise UsageError(f"{path}: unknown kind of file; use .parquet, .csv or .jsonl")


def read_texts(frame: pd.DataFrame, path: Path, column: str) -> list[str]:
    """The texts of a column, none of them empty.

    Raises:
        UsageError: no such column, or a row without text.
    """
    values = _column(frame, path, column).tolist()
    for row, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{path}: column {column!r}, row {row}: no text; remove the row")
    return values


def read_labels(frame: pd.DataFrame, path: Path, column: str | None) -> list[str | None]:
    """The task of each row, None where it is empty or no column was named.

    Raises:
        UsageError: no such column.
    """
    if column is None:
        return [None] * len(frame)
    return [None if pd.isna(value) else str(value) for value in _column(frame, path, column).tolist()]


def _column(frame: pd.DataFrame, path: Path, column: str) -> pd.Series:
    if column not in frame.columns:
        raise UsageError(f"{path}: no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    return frame[column]


def _models(frame: pd.DataFrame, path: Path, prefix: str, named: Sequence[str]) -> tuple[str, ...]:
    found = [str(name).removeprefix(prefix) for name in frame.columns if str(name).startswith(prefix)]
    chosen = tuple(dict.fromkeys(named or found))
    if not chosen:
        raise UsageError(f"{path}: no column begins with {prefix!r}; name the prefix of the reward columns")
    if len(chosen) == 1:
        raise UsageError(f"{path}: only one model, {chosen[0]!r}; there is nothing to choose between")
    return chosen


def _numbers(frame: pd.DataFrame, path: Path, column: str, most: float = np.inf) -> FloatArray:
    values = pd.to_numeric(_column(frame, path, column), errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0) & (values <= most))
    if wrong.any():
        row = int(wrong.argmax())
        found = frame[column].tolist()[row]
        limits = f"a number from 0 to {most:g}" if np.isfinite(most) else "a number, 0 or more"
        raise UsageError(
            f"{path}: column {column!r}, row {row + 1}: {found!r} is not {limits}; "
            "correct or remove the row, or name only complete models with --model"
        )
    return values
