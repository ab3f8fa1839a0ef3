"""Files of votes: what is read, and what is refused with column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from worker.errors import UsageError
from worker.pretrain.battles import read_battles

ROWS: dict[str, list[Any]] = {
    "prompt": ["p", "q", "p", "r"],
    "model_a": ["x", "y", "z", "x"],
    "model_b": ["y", "x", "x", "z"],
    "winner": ["model_a", "model_b", "tie", "tie (inconsistent)"],
    "kind": ["chat", None, "chat", "code"],
}


def written(folder: Path, **changed: Any) -> Path:
    path = folder / "votes.csv"
    pd.DataFrame({**ROWS, **changed}).to_csv(path, index=False)
    return path


def test_votes_are_read_with_their_side(tmp_path: Path) -> None:
    """Outcomes are 1, −1 or 0 as a won, b won or neither; a prompt counts once."""
    found = read_battles(written(tmp_path), task_column="kind")
    assert (found.prompts, found.tasks, found.models) == (["p", "q", "r"], ["chat", None, "code"], ("x", "y", "z"))
    np.testing.assert_array_equal(found.prompt, [0, 1, 0, 2])
    np.testing.assert_array_equal(np.array(found.models)[found.a], ROWS["model_a"])
    np.testing.assert_array_equal(np.array(found.models)[found.b], ROWS["model_b"])
    np.testing.assert_array_equal(found.outcome, [1, -1, 0, 0])
    np.testing.assert_array_equal(found.counts, [4, 2, 2])
    assert len(found) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"winner": ["model_a", "x", "tie", "tie"]}, r"'winner', row 2: 'x' is not model_a, model_b or tie"),
        ({"winner": ["model_a", None, "tie", "tie"]}, r"'winner', row 2: nan is not"),
        ({"model_a": ["x", "y", None, "x"]}, r"'model_a', row 3: nan names no model"),
        ({"model_b": ["y", "y", "x", "z"]}, r"row 2: 'y' against itself"),
        ({"prompt": ["p", "q", "p", None]}, r"'prompt', row 4: no text"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """A vote that cannot be used is reported with file, column and row."""
    with pytest.raises(UsageError, match=message):
        read_battles(written(tmp_path, **changed))


@pytest.mark.parametrize("column", ["prompt", "model_a", "model_b", "winner"])
def test_missing_column_is_named(tmp_path: Path, column: str) -> None:
    """Each of the four columns is needed."""
    path = tmp_path / "votes.csv"
    pd.DataFrame(ROWS).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(UsageError, match=f"no column '{column}'"):
        read_battles(path)


def test_no_votes_are_refused(tmp_path: Path) -> None:
    """A file with a header only says nothing."""
    path = tmp_path / "votes.csv"
    pd.DataFrame({name: [] for name in ROWS}).to_csv(path, index=False)
    with pytest.raises(UsageError, match="has no rows"):
        read_battles(path)
