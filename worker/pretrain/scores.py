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
from worker.pretrain.frame import column, read_frame, read_labels, read_texts


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
    chosen = _models(frame, path, reward_prefix, models)
    rewards = np.column_stack([_numbers(frame, path, reward_prefix + model, most=1.0) for model in chosen])
    costs = np.column_stack([_numbers(frame, path, cost_prefix + model) for model in chosen])
    return Scores(read_texts(frame, path, text_column), read_labels(frame, path, task_column), chosen, rewards, costs)


def _models(frame: pd.DataFrame, path: Path, prefix: str, named: Sequence[str]) -> tuple[str, ...]:
    found = [str(name).removeprefix(prefix) for name in frame.columns if str(name).startswith(prefix)]
    chosen = tuple(dict.fromkeys(named or found))
    if "" in chosen:
        raise UsageError(f"{path}: column {prefix!r} names no model; put the model's name after the prefix")
    if not chosen:
        raise UsageError(f"{path}: no column begins with {prefix!r}; name the prefix of the reward columns")
    if len(chosen) == 1:
        raise UsageError(f"{path}: only one model, {chosen[0]!r}; there is nothing to choose between")
    return chosen


def _numbers(frame: pd.DataFrame, path: Path, name: str, most: float = np.inf) -> FloatArray:
    cells = column(frame, path, name, "every model needs a reward and a cost; name only complete models with --model")
    values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0) & (values <= most))
    if wrong.any():
        row = int(wrong.argmax())
        limits = f"a number from 0 to {most:g}" if np.isfinite(most) else "a number, 0 or more"
        raise UsageError(
            f"{path}: column {name!r}, row {row + 1}: {cells.tolist()[row]!r} is not {limits}; "
            "correct or remove the row, or name only complete models with --model"
        )
    return values
