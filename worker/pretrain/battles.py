"""Reads battles: which of two models answered a prompt better.

One row a vote: a text column, `model_a`, `model_b`, and `winner`, one of `model_a`,
`model_b` or anything that begins with `tie`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.frame import column, read_frame, read_labels, read_texts

IntArray = NDArray[np.int64]
_COLUMNS = ("model_a", "model_b", "winner")
_OUTCOMES = {"model_a": 1.0, "model_b": -1.0}


@dataclass(frozen=True)
class Battles:
    """n votes between K models on m distinct prompts.

    `prompt`, `a`, `b` of shape (n,) index `prompts` and `models`; `outcome` is 1 where
    a won, −1 where b won, 0 for a tie.
    """

    prompts: list[str]
    tasks: list[str | None]
    models: tuple[str, ...]
    prompt: IntArray
    a: IntArray
    b: IntArray
    outcome: FloatArray

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def counts(self) -> IntArray:
        """Battles of each model, shape (K,)."""
        counts: IntArray = np.bincount(np.concatenate([self.a, self.b]), minlength=len(self.models))
        return counts


def read_battles(path: Path, *, text_column: str = "prompt", task_column: str | None = None) -> Battles:
    """Read Parquet, CSV or JSONL, by the suffix of the name.

    Raises:
        UsageError: file, column and row of what is missing or cannot be a vote.
    """
    frame = read_frame(path)
    for name in _COLUMNS:
        column(frame, path, name, f"a vote needs {', '.join(_COLUMNS)}")
    texts, tasks = read_texts(frame, path, text_column), read_labels(frame, path, task_column)
    prompts = list(dict.fromkeys(texts))
    task_of = dict(zip(texts, tasks, strict=True))
    position = {text: index for index, text in enumerate(prompts)}
    a, b = _names(frame, path, "model_a"), _names(frame, path, "model_b")
    models = tuple(sorted({*a, *b}))
    index = {model: k for k, model in enumerate(models)}
    return Battles(
        prompts=prompts,
        tasks=[task_of[text] for text in prompts],
        models=models,
        prompt=np.array([position[text] for text in texts], dtype=np.int64),
        a=np.array([index[name] for name in a], dtype=np.int64),
        b=np.array([index[name] for name in b], dtype=np.int64),
        outcome=np.array([_outcome(path, row, value) for row, value in enumerate(frame["winner"], start=1)]),
    )


def _names(frame: pd.DataFrame, path: Path, side: str) -> list[str]:
    names = frame[side].tolist()
    for row, (name, other) in enumerate(zip(names, frame["model_a"].tolist(), strict=True), start=1):
        if not isinstance(name, str) or not name:
            raise UsageError(f"{path}: column {side!r}, row {row}: {name!r} names no model; correct or remove the row")
        if side == "model_b" and name == other:
            raise UsageError(f"{path}: row {row}: {name!r} against itself; remove the row")
    return names


def _outcome(path: Path, row: int, value: object) -> float:
    if isinstance(value, str) and value in _OUTCOMES:
        return _OUTCOMES[value]
    if isinstance(value, str) and value.startswith("tie"):
        return 0.0
    raise UsageError(
        f"{path}: column 'winner', row {row}: {value!r} is not model_a, model_b or tie; correct or remove the row"
    )
