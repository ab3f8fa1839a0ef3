"""The local broker's life: start, stop, status, and what can be in the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import OperationFailed
from worker.kafka import compacted, connect, local, topics
from worker.settings import Settings

PILOT = Path(sys.executable).with_name("pilot")


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "kafka"
    yield folder
    local.stop(folder)


def kafka(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [PILOT, "kafka", *arguments, "--data-dir", str(data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def settings_at(address: str) -> Settings:
    return Settings(bootstrap_servers=address)


async def write(address: str, value: bytes) -> None:
    settings = settings_at(address)
    await topics.create(settings)
    async with connect.producer(settings) as producer:
        await producer.send_and_wait(settings.topic("models"), value, key=b"key")


async def read(address: str) -> dict[bytes, bytes | None]:
    settings = settings_at(address)
    return {key: record.value for key, record in (await compacted.latest(settings, "pilot.models")).items()}


async def test_data_survive_a_stop_and_another_port(data_dir: Path) -> None:
    """What was written is there after a stop and a start on another port."""
    first = await start(data_dir)
    await write(first, b"kept")
    assert local.stop(data_dir)
    assert local.status(data_dir) is None

    second = await start(data_dir)

    assert second != first
    assert await read(second) == {b"key": b"kept"}


async def test_start_after_kill_9(data_dir: Path) -> None:
    """A broker that was killed starts again in spite of its stale pid file, with its data."""
    address = await start(data_dir)
    await write(address, b"kept")
    killed = local.status(data_dir)
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)

    again = await start(data_dir, killed.port)

    assert again == address
    assert await read(again) == {b"key": b"kept"}


def test_command_starts_detached_and_is_repeatable(data_dir: Path) -> None:
    """`pilot kafka start` leaves no pipe open and no common session behind, and a running broker is no error."""
    started = kafka("start", "--port", "0", data_dir=data_dir)  # returns only when the pipes are closed
    broker = local.status(data_dir)
    assert broker is not None
    assert (started.returncode, started.stdout) == (0, f"{broker.address}\n")
    assert os.getsid(broker.pid) == broker.pid != os.getsid(0)

    again = kafka("start", "--port", "0", data_dir=data_dir)
    assert (again.returncode, again.stdout) == (0, started.stdout)
    assert kafka("status", data_dir=data_dir).stdout == started.stdout

    assert kafka("stop", data_dir=data_dir).returncode == 0
    gone = kafka("status", data_dir=data_dir)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert kafka("stop", data_dir=data_dir).returncode == 0


def test_two_starts_at_once_give_one_broker(data_dir: Path) -> None:
    """Starts that meet wait for each other and name the same broker."""
    command = [PILOT, "kafka", "start", "--port", "0", "--data-dir", str(data_dir)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1] != ""


def test_taken_port_is_named(data_dir: Path) -> None:
    """A port that somebody else listens on is a clear line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        failed = kafka("start", "--port", str(port), data_dir=data_dir)
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        f"pilot: port {port} cannot be used (Address already in use): choose another with --port"
    ]


def test_recycled_pid_is_not_the_broker(data_dir: Path) -> None:
    """A pid file that names a living process of another kind counts as stale, and that process is not touched."""
    data_dir.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        (data_dir / "broker.json").write_text(json.dumps({"pid": bystander.pid, "port": 9092}))
        assert local.status(data_dir) is None
        assert not local.stop(data_dir)
        assert bystander.poll() is None


def test_broker_that_cannot_come_up_is_reported(data_dir: Path) -> None:
    """A broker that ends while starting is an error that names its log, and leaves nothing behind."""
    (data_dir / "logs").mkdir(parents=True)
    (data_dir / "logs" / "meta.properties").write_text("version=1\nnode.id=2\ncluster.id=other\n")
    with pytest.raises(OperationFailed, match=r"ended at start: see .*kafka\.log"):
        local.start(0, data_dir)
    assert local.status(data_dir) is None
    assert not (data_dir / "broker.json").exists()


async def start(data_dir: Path, port: int = 0) -> str:
    # The command, not the function: it runs its own event loop.
    done = kafka("start", "--port", str(port), data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
