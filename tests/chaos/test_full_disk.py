"""A disk without space, the broker's or a worker's: who cannot go on says so and ends, and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.support import WorkerProcess, until
from tests.chaos.run import Plan, run
from tests.chaos.supervisor import LocalBroker, fill
from tests.chaos.team import Team

DISK_MIB = 300  # a broker's files; most of it is never written


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system can only be mounted by root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_of_the_broker(disk: Path, tmp_path: Path) -> None:
    """The broker ends of its full disk amid traffic; with space again and the same data all is as if nothing was."""
    broker = LocalBroker.start(disk)
    try:
        result = asyncio.run(run(Plan(13, ("full",), rate=25.0, pause_s=(1.0, 4.0)), broker, tmp_path))
    finally:
        broker.stop()
    assert result.violations == []
    assert result.notes == []
    assert None not in result.recovered


@pytest.fixture
def team(killable: LocalBroker, tmp_path: Path) -> Iterator[Team]:
    team = Team(killable.address, tmp_path)
    yield team
    team.close()


def test_full_disk_of_a_worker(disk: Path, team: Team) -> None:
    """A worker whose folder and log find no space decides and settles as ever, and leaves with its code."""
    log = disk / "worker.log"
    log.touch()
    fill(disk)
    worker = WorkerProcess(team.settings, log, worker_id="full", data_dir=disk)
    team.workers["full"] = worker
    worker.ready(for_text=False)
    team.ask(16)
    team.check()
    assert worker.stop() == 0
    assert log.read_bytes() == b""


def test_full_data_folder_is_said(disk: Path, team: Team) -> None:
    """A worker that cannot leave a note of its exit says so at its start."""
    fill(disk)
    worker = team.start("full", data_dir=disk)
    until(lambda: "the exit note cannot be written" in worker.said(), "a word of the full disk")
    assert worker.stop() == 0


def test_full_disk_hides_no_exit(disk: Path, team: Team) -> None:
    """A worker that must stop ends with its code though its last line finds no space."""
    log = disk / "worker.log"
    log.touch()
    fill(disk)
    team.ask(100)
    worker = WorkerProcess(team.settings, log, ("tests.chaos.broken_worker", "pause"), worker_id="full", data_dir=disk)
    team.workers["full"] = worker
    assert worker.wait(90) == 73
