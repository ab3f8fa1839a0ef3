"""Tables of scores: what is read, and what is refused with file, column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from worker.errors import UsageError
from worker.pretrain.scores import read_scores

ROWS: dict[str, list[Any]] = {
    "prompt": ["one", "two", "three"],
    "kind": ["x", None, "y"],
    "reward:a": [1.0, 0.0, 0.5],
    "reward:b/c": [0.25, 1, 1],
    "cost:a": [0.001, 0.002, 0.0],
    "cost:b/c": [0.1, 0.2, 0.3],
}


def written(folder: Path, suffix: str = ".parquet", **changed: Any) -> Path:
    frame = pd.DataFrame({**ROWS, **changed})
    path = folder / f"scores{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_reads_each_kind_of_file(tmp_path: Path, suffix: str) -> None:
    """Parquet, CSV and JSONL give the same numbers; models are what follows the prefix."""
    found = read_scores(written(tmp_path, suffix), task_column="kind")
    assert (found.prompts, found.tasks, found.models) == (["one", "two", "three"], ["x", None, "y"], ("a", "b/c"))
    np.testing.assert_array_equal(found.rewards, [[1, 0.25], [0, 1], [0.5, 1]])
    np.testing.assert_array_equal(found.costs, [[0.001, 0.1], [0.002, 0.2], [0, 0.3]])


def test_named_models_choose_and_order_the_columns(tmp_path: Path) -> None:
    """Only the models that were named are read, so incomplete ones may stay in the file."""
    path = written(tmp_path, **{"reward:half": [1.0, None, 1.0], "cost:half": [1.0, 1.0, 1.0]})
    assert read_scores(path, models=["b/c", "a"]).models == ("b/c", "a")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward:a": [1.0, None, 1.0]}, r"'reward:a', row 2: .*not a number from 0 to 1"),
        ({"reward:a": [1.0, 0.0, 1.5]}, r"'reward:a', row 3: .*1\.5.* not a number from 0 to 1"),
        ({"reward:a": ["good", "0.5", "1"]}, r"'reward:a', row 1: 'good' is not a number"),
        ({"cost:a": [0.1, -0.1, 0.1]}, r"'cost:a', row 2: .*-0\.1.* not a number, 0 or more"),
        ({"cost:a": [0.1, 0.1, float("inf")]}, r"'cost:a', row 3: .*inf.* not a number"),
        ({"prompt": ["one", "  ", "three"]}, r"'prompt', row 2: no text"),
        ({"prompt": ["one", "two", None]}, r"'prompt', row 3: no text"),
    ],
)
def test_bad_cell_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """A cell that cannot be used is reported with file, column and row."""
    path = written(tmp_path, **changed)
    with pytest.raises(UsageError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "query"}, r"no column 'query'; it has prompt, kind"),
        ({"task_column": "label"}, r"no column 'label'"),
        ({"reward_prefix": "score:"}, r"no column begins with 'score:'"),
        ({"cost_prefix": "usd:"}, r"no column 'usd:a'"),
        ({"models": ["a", "z"]}, r"no column 'reward:z'"),
        ({"models": ["a"]}, r"only one model, 'a'"),
        ({"reward_prefix": "reward:a"}, r"'reward:a' names no model"),
    ],
)
def test_missing_column_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """What was asked for and is not there is named, with what to do."""
    with pytest.raises(UsageError, match=message):
        read_scores(written(tmp_path), **options)
