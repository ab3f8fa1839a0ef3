"""Files of rows: what is read, and what is refused because rows or columns cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worker.errors import UsageError
from worker.pretrain.frame import read_frame, read_texts


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "prompt,text\nNA,1\n2024-01-01,null\n"),
        ("t.jsonl", '{"prompt": "NA", "text": "1"}\n\n{"prompt": "2024-01-01", "text": "null"}\n'),
    ],
)
def test_a_text_stays_what_it_is(tmp_path: Path, name: str, content: str) -> None:
    """What looks like a missing value, a number or a date is a prompt all the same."""
    frame = read_frame(written(tmp_path, name, content))
    assert read_texts(frame, tmp_path / name, "prompt") == ["NA", "2024-01-01"]
    assert read_texts(frame, tmp_path / name, "text") == ["1", "null"]


def test_an_empty_cell_is_no_text(tmp_path: Path) -> None:
    """A CSV row without its prompt is named."""
    path = written(tmp_path, "t.csv", "prompt,x\nhello,1\n,2\n")
    with pytest.raises(UsageError, match=r"t\.csv: column 'prompt', row 2: no text"):
        read_texts(read_frame(path), path, "prompt")


def test_two_columns_of_one_name_are_refused_in_every_kind_of_file(tmp_path: Path) -> None:
    """The second would be dropped, or pass for another model."""
    twins = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["cost:a", "cost:a"])
    pq.write_table(twins, tmp_path / "t.parquet")
    written(tmp_path, "t.csv", "cost:a,x,cost:a\n1,2,3\n")
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(UsageError, match=rf"{name}: more than one column is named 'cost:a'"):
            read_frame(tmp_path / name)
    path = written(tmp_path, "t.jsonl", '{"cost:a": 1}\n{"cost:a": 2, "cost:a": 3}\n')
    with pytest.raises(UsageError, match=r"t\.jsonl: .*line 2: more than one field is named 'cost:a'"):
        read_frame(path)


def test_columns_without_a_name_are_no_twins(tmp_path: Path) -> None:
    """Spreadsheets leave such columns behind."""
    assert len(read_frame(written(tmp_path, "t.csv", "a,,\n1,,\n"))) == 1


@pytest.mark.parametrize(
    ("content", "reason"), [('{"a": 1}\n{"a":\n', "line 2: Expecting"), ("[1]\n", "line 1: no JSON")]
)
def test_a_damaged_line_is_named(tmp_path: Path, content: str, reason: str) -> None:
    """JSONL says which line is none."""
    with pytest.raises(UsageError, match=rf"t\.jsonl: cannot be read: {reason}"):
        read_frame(written(tmp_path, "t.jsonl", content))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_without_rows_is_refused(tmp_path: Path, suffix: str) -> None:
    """There is nothing to learn from columns alone."""
    path = tmp_path / f"empty{suffix}"
    frame = pd.DataFrame({"prompt": [], "reward:a": []})
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("prompt,reward:a\n" if suffix == ".csv" else "")
    with pytest.raises(UsageError, match="has no rows"):
        read_frame(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.parquet", b"junk"),
        ("t.jsonl", b"{not json"),
        ("t.csv", b""),
        ("t.csv", b"a,b\n1,2,3\n"),
        ("t.csv", b"\xff\xfe"),
    ],
)
def test_unreadable_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that is not what its suffix says is one line, not a traceback."""
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_frame(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unknown_suffix(tmp_path: Path) -> None:
    """No file, a folder, or a kind that is not read: one clear line each."""
    for name in ("gone.csv", "gone.parquet", "gone.jsonl"):
        with pytest.raises(UsageError, match=f"{name}: cannot be read: no such file"):
            read_frame(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        read_frame(tmp_path / "folder.parquet")
    with pytest.raises(UsageError, match=r"use \.parquet, \.csv or \.jsonl"):
        read_frame(tmp_path / "scores.xlsx")
