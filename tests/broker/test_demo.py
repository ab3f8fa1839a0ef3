"""The demo as a user runs it: its own process, real prompts, two workers on the real broker."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker.demo.wire import Wire
from worker.kafka import connect, local
from worker.settings import Settings

READ_S = 20.0
UNTIL_STARTED_S = 60.0
UNTIL_STOPPED_S = 60.0

needs_the_extra = pytest.mark.skipif(
    importlib.util.find_spec("pareto_bandit") is None, reason="needs pip install 'pilot-router[demo]'"
)


def _demo(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "worker.cli", "demo", "--out", str(out), *arguments]


def _processes_of(folder: Path) -> list[int]:
    """Processes that name the folder in their command line or run in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, inside = (process / "cmdline").read_bytes().decode(), (process / "cwd").readlink()
        except OSError:
            continue
        if str(folder) in command or inside == folder:
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


async def test_wire_reads_every_partition_from_the_beginning(deployment: Settings) -> None:
    """What was sent before the reader came is read, in order within a key, whatever its partition."""
    async with Wire(deployment) as wire:
        for number in range(40):
            await wire.send("decisions", f"user-{number % 8}".encode(), str(number).encode())
        records = []
        async with asyncio.timeout(READ_S):
            async for record in wire.read("decisions"):
                records.append(record)
                if len(records) == 40:
                    break
    assert sorted(int(record.value) for record in records) == list(range(40))
    assert len({record.partition for record in records}) > 1
    ones = [int(record.value) for record in records if record.key == b"user-3"]
    assert ones == sorted(ones)


async def test_misplaced_record_lies_on_another_partition_than_its_key_says(deployment: Settings) -> None:
    """The same key lands elsewhere when it is misplaced."""
    async with Wire(deployment) as wire:
        await wire.send("queries", b"user-1", b"home")
        assert await wire.misplace("queries", b"user-1", b"elsewhere")
        places = {}
        async with asyncio.timeout(READ_S):
            async for record in wire.read("queries"):
                places[record.value] = record.partition
                if len(places) == 2:
                    break
    assert places[b"home"] != places[b"elsewhere"]


@needs_the_extra
@pytest.mark.text
def test_demo_ends_with_a_report_and_leaves_nothing_behind(broker: str, tmp_path: Path) -> None:
    """All queries are answered, all books agree (else exit 1), the report is there, topics and processes are gone."""
    done = subprocess.run(
        _demo(tmp_path, "--queries", "60", "--users", "4", "--prior-rows", "150", "--bootstrap", broker),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sentence = next(line for line in done.stdout.splitlines() if line.startswith("saved "))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sentence in page
    assert str(tmp_path / "report.html") in done.stdout
    assert _processes_of(tmp_path) == []
    assert not [name for name in asyncio.run(_topic_names(broker)) if name.startswith("pilot-demo")]


@needs_the_extra
def test_interrupted_demo_stops_its_broker(tmp_path: Path) -> None:
    """Ctrl-C while things run: exit 130, and no process of the demo is left."""
    demo = subprocess.Popen(_demo(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _wait_for_broker(tmp_path / "kafka")
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=UNTIL_STOPPED_S)
    finally:
        demo.kill()
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert _processes_of(tmp_path) == []


def _wait_for_broker(data_dir: Path) -> None:
    deadline = time.monotonic() + UNTIL_STARTED_S
    while local.status(data_dir) is None:
        assert time.monotonic() < deadline, "the demo's broker did not start"
        time.sleep(0.1)


async def _topic_names(bootstrap: str) -> list[str]:
    async with connect.admin(Settings(bootstrap_servers=bootstrap)) as client:
        names: list[str] = await client.list_topics()
        return names
