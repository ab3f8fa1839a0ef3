"""The processes of a chaos run: workers that are started again whenever they end, and a broker that can be killed."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from worker.kafka import local

RESTART_AFTER_S = 0.3
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 25.0
BALLAST = "ballast"
_BLOCK = 1 << 20
_POLL_S = 0.1
_COMMAND = (sys.executable, "-m", "tests.chaos.faulty_worker")
_ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class LocalBroker:
    """One real broker on a port of its own that survives its kills."""

    data_dir: Path
    port: int

    @classmethod
    def start(cls, data_dir: Path) -> LocalBroker:
        address = local.start(0, data_dir)
        return cls(data_dir, int(address.rpartition(":")[2]))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        running = local.status(self.data_dir.absolute())
        assert running is not None, "the broker is not running"
        os.kill(running.pid, signal.SIGKILL)

    def restart(self) -> None:
        local.start(self.port, self.data_dir)

    def stop(self) -> None:
        local.stop(self.data_dir)

    def ended(self, timeout_s: float) -> bool:
        """Wait until it ends by itself; False if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while local.status(self.data_dir.absolute()) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def fill_disk(self, left: int) -> None:
        """Take the space of its disk except so many bytes."""
        fill(self.data_dir, left)

    def free_disk(self) -> None:
        (self.data_dir / BALLAST).unlink()


def fill(disk: Path, left: int = 0) -> None:
    """Take the space of a file system except so many bytes. Never that of a folder: others live on its disk."""
    assert disk.is_mount(), f"{disk} is no file system of its own"
    with (disk / BALLAST).open("wb", buffering=0) as ballast, suppress(OSError):  # others write there meanwhile
        while (surplus := _free(disk) - left) > 0:
            ballast.write(bytes(min(surplus, _BLOCK)))


def _free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@dataclass(slots=True)
class Supervised:
    """One worker; `exits` are the codes of its lives, negative ones are signals."""

    name: str
    environment: dict[str, str]
    log: Path
    http_port: int = field(default_factory=local.free_port)
    exits: list[int] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    @property
    def kept(self) -> bool:
        """Whether it is started again when it ends."""
        return self._keeper is not None

    def signal(self, signum: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signum)

    async def ready(self) -> bool:
        """Wait until `/readyz` says so; False if that takes too long."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not await asyncio.to_thread(_answers_ready, self.http_port):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def next_life(self, lives: int, timeout_s: float) -> bool:
        """Wait until more than so many lives have ended; False if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while len(self.exits) <= lives:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def stop(self) -> int | None:
        """End it by SIGTERM and do not start it again; its exit code, None if it had to be killed."""
        keeper, self._keeper = self._keeper, None
        process = self.process
        if keeper is None or process is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(keeper), STOP_TIMEOUT_S)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await keeper
            return None
        return self.exits[-1]

    async def _keep(self) -> None:
        while True:
            with self.log.open("ab") as output:
                self.process = await asyncio.create_subprocess_exec(
                    *_COMMAND, env=self._whole_environment(), cwd=_ROOT, stdin=asyncio.subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            self.exits.append(await self.process.wait())
            if self._keeper is not asyncio.current_task():
                return
            await asyncio.sleep(RESTART_AFTER_S)
            if self._keeper is not asyncio.current_task():
                return

    def _whole_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        own = {"PILOT_WORKER_ID": self.name, "PILOT_HTTP_PORT": str(self.http_port)}
        return {**inherited, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **self.environment, **own}


def _answers_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return bool(response.status == HTTPStatus.OK)
    finally:
        connection.close()
