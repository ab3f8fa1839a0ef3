"""The note that a worker leaves for its successor."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import ExitCode
from worker.observe.last_exit import FILE, KILLED, ExitNote


def test_first_start_finds_nothing(tmp_path: Path) -> None:
    """The folder need not exist."""
    assert ExitNote(tmp_path / "new").read() is None


def test_an_exit_is_read_at_the_next_start(tmp_path: Path) -> None:
    """Code, name of the code and text."""
    note = ExitNote(tmp_path / "new")
    note.begin()
    note.end(ExitCode.SEND_FAILED, "effects stage: a send failed for good")
    found = ExitNote(tmp_path / "new").read()
    assert found is not None
    assert (found.code, found.reason, found.detail) == (72, "send_failed", "effects stage: a send failed for good")
    assert found.at > 0


def test_a_process_that_never_left_was_killed(tmp_path: Path) -> None:
    """It could not write a word, so the note still says that it runs."""
    ExitNote(tmp_path).begin()
    found = ExitNote(tmp_path).read()
    assert found is not None
    assert (found.code, found.reason) == (None, KILLED)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"code": 1}', '{"code":1,"reason":"a","detail":"b","at":1,"x":2}'])
def test_a_damaged_note_is_no_note(tmp_path: Path, content: str) -> None:
    """A half-written or foreign file stops no worker."""
    (tmp_path / FILE).write_text(content)
    assert ExitNote(tmp_path).read() is None


def test_an_exit_is_never_held_up(tmp_path: Path) -> None:
    """Where the note cannot be written the worker leaves all the same."""
    (tmp_path / "file").write_text("no folder")
    ExitNote(tmp_path / "file").end(ExitCode.OK, "")
