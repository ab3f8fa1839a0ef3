"""The worker processes of the demo: start, wait until ready, replace, stop.

A worker that stops itself on purpose (exit 70 to 74) is started again, as a supervisor
in production would do; any other end of a worker ends the demo.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from worker.errors import ExitCode, OperationFailed
from worker.kafka.local import free_port
from worker.settings import CONNECTION_PREFIXES

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
HTTP_TIMEOUT_S = 2.0
POLL_S = 0.2
MAX_RESTARTS = 3
LOG_TAIL_LINES = 5
RESTARTABLE = range(ExitCode.HOLE, ExitCode.STATE_BROKEN + 1)


@dataclass(slots=True)
class Worker:
    """One `pilot worker` process; `ready_after_s` from its first start, None until then."""

    name: str
    http_port: int
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    ready_after_s: float | None = None
    restarts: int = 0

    @property
    def address(self) -> str:
        """Base address of its metrics and health."""
        return f"http://127.0.0.1:{self.http_port}"


@dataclass(slots=True)
class Fleet:
    """All workers of a run, sharing one set of settings and one folder for logs and state."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start workers; each has its own id and HTTP port."""
        for number in range(1, count + 1):
            name, port = f"demo-{number}", free_port()
            own = {"PILOT_WORKER_ID": name, "PILOT_HTTP_PORT": str(port)}
            environment = {**self.environment, **own}
            log = self.folder / f"{name}.log"
            process = _launch(environment, log)
            self.workers.append(Worker(name, port, environment, log, process, time.monotonic()))

    async def wait_until_ready(self, waiting: Callable[[str], None]) -> None:
        """Wait for every `/readyz`; `waiting` is told what they are waiting for.

        Raises:
            OperationFailed: a worker ended, or was not ready within three minutes.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while slow := [worker for worker in self.workers if worker.ready_after_s is None]:
            self.require_alive()
            for worker in slow:
                ready, reasons = await asyncio.to_thread(_readiness, worker)
                if ready:
                    worker.ready_after_s = time.monotonic() - worker.started
                else:
                    waiting(f"{worker.name}: {reasons}")
            if time.monotonic() > deadline:
                raise OperationFailed(f"{slow[0].name} is not ready after {READY_TIMEOUT_S:.0f} s: see {slow[0].log}")
            await asyncio.sleep(POLL_S)

    async def watch(self) -> None:
        """Replace workers that stop themselves, until cancelled.

        Raises:
            OperationFailed: a worker ended for another reason, or too often.
        """
        while True:
            for worker in self.workers:
                code = worker.process.poll()
                if code in RESTARTABLE and worker.restarts < MAX_RESTARTS:
                    worker.restarts += 1
                    worker.process = _launch(worker.environment, worker.log)
            self.require_alive()
            await asyncio.sleep(POLL_S)

    def require_alive(self) -> None:
        """Raise `OperationFailed` if a worker has ended."""
        for worker in self.workers:
            _require_alive(worker)

    def stop(self) -> None:
        """Ask all to stop, wait, and kill the ones that do not."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def clean_environment() -> dict[str, str]:
    """The environment without settings of another deployment, and with one thread per process for numerics."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def connection_environment() -> dict[str, str]:
    """The settings of the environment that say how to reach a broker which is secured."""
    return {name: value for name, value in os.environ.items() if name.startswith(CONNECTION_PREFIXES)}


def pilot(*arguments: str) -> list[str]:
    """The command line of a `pilot` command in this very installation."""
    return [sys.executable, "-m", "worker.cli", *arguments]


def _launch(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    # Its own session: Ctrl-C reaches the demo alone, which then stops its workers in order.
    with log.open("ab") as output:
        return subprocess.Popen(
            pilot("worker"),
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _require_alive(worker: Worker) -> None:
    code = worker.process.poll()
    if code is not None:
        tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise OperationFailed(f"{worker.name} ended with exit code {code}; the end of {worker.log}:\n{tail}")


def _readiness(worker: Worker) -> tuple[bool, str]:
    connection = http.client.HTTPConnection("127.0.0.1", worker.http_port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status == HTTPStatus.OK, ", ".join(json.loads(response.read())["reasons"])
    except (OSError, http.client.HTTPException):
        return False, "starting"
    finally:
        connection.close()
