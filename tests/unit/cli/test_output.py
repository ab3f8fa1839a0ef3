"""How lists look on terminals of several widths, and in a pipe."""

from __future__ import annotations

import re

import pytest

from worker.cli import output

HEADINGS = {"name": "name", "rate": "rate\nUSD", "note": "note"}
ROWS = [{"name": "a" * 20, "rate": 1.5, "note": "words " * 9, "other": 0}, {"name": "b", "rate": 2, "note": None}]


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None) -> list[str]:
    """The lines on a terminal of this width, or in a pipe."""
    if width is not None:
        monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
    output.show(ROWS, HEADINGS, as_json=False, empty="nothing")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return [line.rstrip() for line in plain.splitlines()]


def test_in_a_pipe_a_row_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is."""
    lines = shown(capsys, monkeypatch, None)
    assert lines[-2].split() == ["a" * 20, "1.5", *["words"] * 9]
    assert lines[-1].split() == ["b", "2", "-"]


def test_only_the_last_column_is_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the others leave it room enough to be read."""
    lines = shown(capsys, monkeypatch, 60)
    assert max(map(len, lines)) <= 60
    assert lines[-3].startswith("a" * 20)
    assert lines[-2].strip().startswith("words")


def test_what_would_be_cut_becomes_a_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a value, headings on one line, an empty line between the rows."""
    lines = shown(capsys, monkeypatch, 40)
    assert [line.split()[0] for line in lines if line] == ["name", "rate", "note"] * 2
    assert lines[1].split() == ["rate", "USD", "1.5"]
    assert lines[3] == ""


def test_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list is a line for people."""
    output.show([], HEADINGS, as_json=False, empty="no dead letters")
    assert capsys.readouterr().out == "no dead letters\n"
