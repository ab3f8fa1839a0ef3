"""Reading a table and splitting it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from worker.errors import UsageError
from worker.evaluate.table import Columns, Table, named_split, random_splits, read_table


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt": [f"prompt {n}" for n in range(6)],
            "kind": list("aabbcc"),
            "split": ["train"] * 3 + ["test"] * 2 + ["extra"],
            "reward:a": [0.0, 1.0, 0.5, 1.0, 0.0, 1.0],
            "reward:b": [1.0] * 6,
            "cost:a": [0.001] * 6,
            "cost:b": [0.01] * 6,
            "max-cost:a": [0.002] * 6,
            "max-cost:b": [0.02] * 6,
        }
    )


def stored(folder: Path, content: pd.DataFrame, name: str = "table.parquet") -> Path:
    path = folder / name
    content.to_parquet(path) if path.suffix == ".parquet" else content.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_reads_rewards_costs_labels_and_bounds(tmp_path: Path, name: str) -> None:
    """All columns arrive under their model, bounds in nano-dollars."""
    table = read_table(stored(tmp_path, frame(), name), Columns(label="kind"), bounded=True)
    assert table.models == ("a", "b")
    assert table.labels == list("aabbcc")
    assert table.rewards[:, 0].tolist() == [0.0, 1.0, 0.5, 1.0, 0.0, 1.0]
    assert table.bounds is not None
    assert table.bounds[0].tolist() == [2_000_000, 20_000_000]


def test_a_bound_is_needed_for_every_model(tmp_path: Path) -> None:
    """The error names file, column and row, or the columns that there are."""
    holed = frame()
    holed.loc[2, "max-cost:b"] = np.nan
    with pytest.raises(UsageError, match=r"table.parquet: column 'max-cost:b', row 3"):
        read_table(stored(tmp_path, holed), Columns(), bounded=True)
    with pytest.raises(UsageError, match="no column 'max-cost:a'"):
        read_table(stored(tmp_path, frame().drop(columns=["max-cost:a"])), Columns(), bounded=True)


def test_a_missing_label_column_is_named(tmp_path: Path) -> None:
    """The error lists the columns that there are."""
    with pytest.raises(UsageError, match="no column 'topic'; it has prompt, kind"):
        read_table(stored(tmp_path, frame()), Columns(label="topic"))


class TestNamedSplit:
    """The split column."""

    def split(self, tmp_path: Path, content: pd.DataFrame, **sides: list[str]) -> tuple[list[int], list[int], int]:
        path = stored(tmp_path, content)
        names = {"train": ["train"], "test": ["test"], **sides}
        split, dropped = named_split(path, read_table(path, Columns()), "split", names["train"], names["test"])
        return split.train.tolist(), split.test.tolist(), dropped

    def test_takes_the_named_rows(self, tmp_path: Path) -> None:
        """Rows of neither side are left out, and a side may have several names."""
        assert self.split(tmp_path, frame()) == ([0, 1, 2], [3, 4], 0)
        assert self.split(tmp_path, frame(), train=["train", "extra"]) == ([0, 1, 2, 5], [3, 4], 0)

    def test_drops_train_rows_whose_prompt_is_tested(self, tmp_path: Path) -> None:
        """A prompt in both sides is only tested, and the dropped rows are counted."""
        content = frame()
        content.loc[1, "prompt"] = "prompt 4"
        assert self.split(tmp_path, content) == ([0, 2], [3, 4], 1)

    def test_an_empty_side_is_an_error(self, tmp_path: Path) -> None:
        """The line says which side, which names were wanted and which there are."""
        with pytest.raises(UsageError, match=r"no test rows named holdout; it has extra, test, train; use --test"):
            self.split(tmp_path, frame(), test=["holdout"])

    def test_a_missing_column_points_to_random_splits(self, tmp_path: Path) -> None:
        """Without a split column the user is told both ways out."""
        with pytest.raises(UsageError, match=r"--split-column.*--splits N"):
            self.split(tmp_path, frame().drop(columns=["split"]))


class TestRandomSplits:
    """Seeded 70/30 splits."""

    def test_are_disjoint_complete_and_stratified(self, table: Table) -> None:
        """Every row is on one side, and every label is divided 70 to 30."""
        for split in random_splits(table, 3):
            assert sorted([*split.train, *split.test]) == list(range(400))
            for label in (0, 1):
                share = np.mean(np.isin(np.flatnonzero(table.strata == label), split.train))
                assert share == pytest.approx(0.7, abs=0.01)

    def test_differ_from_each_other_and_repeat(self, table: Table) -> None:
        """Two splits differ; the same call gives the same ones."""
        first, second = random_splits(table, 2)
        assert first.test.tolist() != second.test.tolist()
        assert random_splits(table, 2)[1].test.tolist() == second.test.tolist()
