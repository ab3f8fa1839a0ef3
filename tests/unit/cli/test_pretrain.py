"""`pilot pretrain` from the command line to the artefact; the builders have their own tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.cli import run
from worker.core.prior import Prior


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.text
def test_table_writes_an_artefact_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of scores becomes a prior that names its models; the report goes to stdout, progress to stderr."""
    rows: list[dict[str, object]] = [
        {"question": f"What is {n} plus {n}?", "score:a": n % 2, "score:b": 1, "cost:a": 1e-4, "cost:b": 1e-2}
        for n in range(40)
    ]
    file, out = write(tmp_path / "scores.jsonl", rows), tmp_path / "prior.npz"
    options = ("--text-column", "question", "--reward-prefix", "score:", "--out", str(out))
    assert run(["pretrain", "table", file, *options]) == 0
    prior = Prior.load(out)
    said = capsys.readouterr()
    assert prior.models == ("a", "b")
    assert f"fingerprint: {prior.fingerprint}" in said.out
    assert "encoding 40 prompts" in said.err


@pytest.mark.text
def test_preferences_and_texts_write_artefacts(tmp_path: Path) -> None:
    """Votes become priors by each method, and bare prompts one that knows no model."""
    votes: list[dict[str, object]] = [
        {"prompt": f"Write {n} lines about topic {n}", "model_a": "a", "model_b": "b", "winner": "model_a"}
        for n in range(60)
    ]
    file, out = write(tmp_path / "votes.jsonl", votes), tmp_path / "prior.npz"
    for method in ("observations", "triplet"):
        assert run(["pretrain", "preferences", file, "--method", method, "--out", str(out)]) == 0
        assert set(Prior.load(out).models) == {"a", "b"}
    assert run(["pretrain", "texts", file, "--out", str(out)]) == 0
    assert Prior.load(out).models == ()


def test_bad_file_is_exit_2_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without the needed columns is named, a missing --out is wrong use, and there is no artefact."""
    file, out = write(tmp_path / "rows.jsonl", [{"prompt": "x"}]), tmp_path / "prior.npz"
    for kind in ("table", "preferences", "texts"):
        assert run(["pretrain", kind, file, "--out", str(out)]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"pilot: {file}")
        assert run(["pretrain", kind, file]) == 2
        assert "Missing option '--out'" in capsys.readouterr().err
    assert not out.exists()


def test_an_artefact_in_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is named before anything is read, not after the encoding."""
    for kind in ("table", "preferences", "texts"):
        assert run(["pretrain", kind, "rows.jsonl", "--out", str(tmp_path / "missing" / "prior.npz")]) == 2
        assert f"no folder {tmp_path / 'missing'}; create it first" in capsys.readouterr().err
