"""The table under evaluation: prompts, what every model scored and cost on them, and its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from worker.core.eligibility import Nanos, nanos
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.frame import column, read_frame
from worker.pretrain.scores import read_scores

Rows = NDArray[np.int64]
TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class Columns:
    """Which columns of the file mean what."""

    text: str = "prompt"
    task: str | None = None
    label: str | None = None
    split: str = "split"
    reward_prefix: str = "reward:"
    cost_prefix: str = "cost:"
    bound_prefix: str = "max-cost:"


@dataclass(frozen=True)
class Table:
    """n prompts × K models: rewards 0 to 1, costs in USD, bounds in nano-dollars (-1: none), all (n, K)."""

    name: str
    prompts: list[str]
    tasks: list[str | None]
    labels: list[str] | None
    models: tuple[str, ...]
    rewards: FloatArray
    costs: FloatArray
    bounds: Nanos | None

    @property
    def strata(self) -> NDArray[np.int64]:
        """The label of each row as a number, shape (n,); zeros without labels."""
        if self.labels is None:
            return np.zeros(len(self.prompts), np.int64)
        return np.unique(self.labels, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Split:
    """Row numbers to learn from and to be judged on; disjoint."""

    train: Rows
    test: Rows


def read_table(path: Path, columns: Columns, models: Sequence[str] = (), *, bounded: bool = False) -> Table:
    """Read Parquet, CSV or JSONL; `bounded` demands a bound for every model.

    Raises:
        UsageError: file, column and row of what is missing or out of range.
    """
    scores = read_scores(
        path,
        text_column=columns.text,
        reward_prefix=columns.reward_prefix,
        cost_prefix=columns.cost_prefix,
        task_column=columns.task,
        models=models,
    )
    frame = read_frame(path)
    labels = None if columns.label is None else [str(value) for value in column(frame, path, columns.label).tolist()]
    bounds = _bounds(frame, path, columns.bound_prefix, scores.models) if bounded else None
    return Table(path.name, scores.prompts, scores.tasks, labels, scores.models, scores.rewards, scores.costs, bounds)


def _bounds(frame: pd.DataFrame, path: Path, prefix: str, models: Sequence[str]) -> Nanos:
    columns = []
    for model in models:
        cells = column(frame, path, prefix + model, "--reserve worst_case needs a bound of every model")
        values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise UsageError(f"{path}: column {prefix + model!r}, row {row}: no bound; --reserve worst_case needs one")
        columns.append(nanos(values))
    return np.column_stack(columns)


def named_split(path: Path, table: Table, name: str, train: Sequence[str], test: Sequence[str]) -> tuple[Split, int]:
    """The rows whose split column says so, and how many train rows were dropped because test has their prompt.

    Raises:
        UsageError: no such column, or a side without rows.
    """
    frame = read_frame(path)
    remedy = "name it with --split-column, or draw splits with --splits N"
    values = [str(value) for value in column(frame, path, name, remedy).tolist()]
    tested = [row for row, value in enumerate(values) if value in test]
    prompts = {table.prompts[row] for row in tested}
    candidates = [row for row, value in enumerate(values) if value in train and value not in test]
    kept = [row for row in candidates if table.prompts[row] not in prompts]
    if candidates and tested and not kept:
        raise UsageError(
            f"{path}: column {name!r}: every prompt of the train rows is in the test rows too; draw other rows"
        )
    for side, rows, wanted in (("train", kept, train), ("test", tested, test)):
        if not rows:
            found = ", ".join(sorted(set(values))[:8])
            raise UsageError(
                f"{path}: column {name!r}: no {side} rows named {', '.join(wanted)}; it has {found}; use --{side}"
            )
    return Split(np.array(kept), np.array(tested)), len(candidates) - len(kept)


def random_splits(table: Table, count: int, seed: int = 0) -> list[Split]:
    """`count` seeded 70/30 splits, each label divided in this proportion.

    Raises:
        UsageError: too few rows for a side.
    """
    splits = []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        train, test = [], []
        for label in np.unique(table.strata):
            rows = generator.permutation(np.flatnonzero(table.strata == label))
            cut = round(TRAIN_SHARE * len(rows))
            train.append(rows[:cut])
            test.append(rows[cut:])
        split = Split(np.sort(np.concatenate(train)), np.sort(np.concatenate(test)))
        if not len(split.train) or not len(split.test):
            raise UsageError(f"{table.name}: {len(table.prompts)} rows are too few for a split; add rows")
        splits.append(split)
    return splits
