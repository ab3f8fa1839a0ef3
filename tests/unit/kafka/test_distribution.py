"""Finding Java and fetching the local broker, and what is said when that is impossible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.errors import OperationFailed
from worker.kafka import distribution

BOTH_WAYS = r"install it, or run `docker compose up -d kafka` and set PILOT_BOOTSTRAP_SERVERS"


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and no JAVA_HOME."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


@pytest.mark.usefixtures("empty_path")
def test_missing_java_names_both_ways_out() -> None:
    """Without Java one line says what is needed and what else can be done."""
    with pytest.raises(OperationFailed, match=BOTH_WAYS):
        distribution.java()


def test_old_java_is_refused(empty_path: Path) -> None:
    """A Java that cannot run the broker is named with its version, the old numbering included."""
    for shown, version in (("11.0.2", "11"), ("1.8.0_292", "8")):
        program(empty_path, "java", f"echo 'openjdk version \"{shown}\"' >&2")
        with pytest.raises(OperationFailed, match=f"is version {version}: {BOTH_WAYS}"):
            distribution.java()
    program(empty_path, "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    assert distribution.java() == str(empty_path / "java")


@pytest.mark.usefixtures("empty_path")
def test_missing_maven_names_both_ways_out(tmp_path: Path) -> None:
    """Without Maven and without a cache one line says so; nothing is left behind under the final name."""
    with pytest.raises(OperationFailed, match=f"there is no `mvn`: {BOTH_WAYS}"):
        distribution.jars(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_failed_download_names_maven_s_reason(empty_path: Path, tmp_path: Path) -> None:
    """When Maven fails its first error line is passed on, and the cache stays empty."""
    program(empty_path, "mvn", "echo '[ERROR] Unknown host'; echo '[ERROR] more'; exit 1")
    with pytest.raises(OperationFailed, match=r"could not fetch the local Kafka \(\[ERROR\] Unknown host\)"):
        distribution.jars(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A cache folder that cannot be created is one clear line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationFailed, match="the local Kafka's jars cannot be kept there: Not a directory"):
        distribution.jars(tmp_path / "file" / "cache")


def test_jars_are_fetched_once_by_callers_at_the_same_time(empty_path: Path, tmp_path: Path) -> None:
    """Several processes that need the jars at once run Maven once and get the same complete folder."""
    calls, system = tmp_path / "calls", "/usr/bin:/bin"
    program(empty_path, "mvn", f"PATH={system}; echo call >> {calls}; sleep 0.5; mkdir lib; touch lib/kafka.jar")
    cache = tmp_path / "cache"
    code = f"from pathlib import Path; from worker.kafka.distribution import jars; print(jars(Path({str(cache)!r})))"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate()[0].strip() for process in processes}
    assert calls.read_text().splitlines() == ["call"]
    (folder,) = answers
    assert [path.name for path in Path(folder).iterdir()] == ["kafka.jar"]
