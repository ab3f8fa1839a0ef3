"""A single-node Apache Kafka (KRaft) for development and tests: start, stop, status.

All that belongs to one broker lies in its data directory: `server.properties`,
`broker.json` (pid and port of the last start), `kafka.log` and the logs. The pid
counts only while its command line names this very directory, so neither a kill -9
nor a recycled pid is mistaken for the broker.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_data_path

from worker.errors import OperationFailed
from worker.kafka import distribution

DEFAULT_PORT = 9092
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_HOST = "127.0.0.1"
_MAIN_CLASS = "kafka.Kafka"
# Above every topic's own max.message.bytes, which is what really limits a record.
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{host}:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
metadata.max.idle.interval.ms=0
message.max.bytes={message_max_bytes}
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
"""
# Popen objects of brokers started by this process: their exit must be collected or they stay zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Broker:
    """A running local broker."""

    pid: int
    port: int

    @property
    def address(self) -> str:
        """Bootstrap address, `127.0.0.1:PORT`."""
        return f"{_HOST}:{self.port}"


def default_data_dir() -> Path:
    """Where the broker keeps its data unless told otherwise."""
    return user_data_path("pilot-router") / "kafka"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def status(data_dir: Path) -> Broker | None:
    """The broker of this data directory if it runs, else None."""
    try:
        broker = Broker(**json.loads(_record(data_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return broker if _is_ours(broker.pid, data_dir) else None


def start(port: int, data_dir: Path) -> str:
    """Start the broker, wait until it answers, return its address; a running one is left as it is.

    Port 0 chooses a free one. The process outlives its starter: own session, no
    inherited pipes.

    Raises:
        OperationFailed: no Java or Maven, port taken, or the broker did not come up.
    """
    data_dir = data_dir.absolute()
    _make(data_dir)
    with distribution.exclusive(data_dir / "lock"):
        running = status(data_dir)
        if running is not None and _becomes_ready(running, data_dir):
            return running.address
        java, jars = distribution.java(), distribution.jars()
        # A young broker's second compiler takes half a core for its first minute, from whoever it serves.
        command = [java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN", "-cp", f"{jars}/*"]
        return _launch(command, port, data_dir).address


def stop(data_dir: Path) -> bool:
    """Stop the broker of this data directory and wait for its end; False when none ran.

    A broker that ignores the request for 30 s is killed; its data survive that.
    """
    data_dir = data_dir.absolute()
    broker = status(data_dir)
    if broker is not None:
        for request in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(broker.pid, request)
            if _ended(broker.pid, data_dir, STOP_TIMEOUT_S):
                break
    _record(data_dir).unlink(missing_ok=True)
    return broker is not None


def _make(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationFailed(f"{data_dir}: cannot be the data directory: {error.strerror}") from None


def _launch(command: list[str], port: int, data_dir: Path) -> Broker:
    if port:
        _require_free(port)
    chosen = port or free_port()
    controller = free_port()
    properties = data_dir / "server.properties"
    logs = data_dir / "logs"
    properties.write_text(
        _PROPERTIES.format(
            host=_HOST, port=chosen, controller=controller, logs=logs, message_max_bytes=_MESSAGE_MAX_BYTES
        )
    )
    if not (logs / "meta.properties").exists():
        _format_storage(command, properties, data_dir)
    broker = Broker(_spawn([*command, _MAIN_CLASS, str(properties)], data_dir), chosen)
    _record(data_dir).write_text(json.dumps(asdict(broker)))
    try:
        up = _becomes_ready(broker, data_dir)
    except BaseException:
        stop(data_dir)
        raise
    if not up:
        _record(data_dir).unlink()
        raise OperationFailed(f"the local Kafka ended at start: see {_log(data_dir)}")
    return broker


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        # A port in TIME_WAIT after a restart is free; only a listener is in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise OperationFailed(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None


def _format_storage(command: list[str], properties: Path, data_dir: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
    done = subprocess.run([*command, *tool, "--ignore-formatted"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise OperationFailed(f"{data_dir}: formatting the storage failed: {''.join(last)}")


def _spawn(command: list[str], data_dir: Path) -> int:
    with _log(data_dir).open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=data_dir, start_new_session=True
        )
    _children[child.pid] = child
    return child.pid


def _becomes_ready(broker: Broker, data_dir: Path) -> bool:
    """Wait until the broker answers (True) or is gone (False: it was just being stopped, or failed)."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if not _is_ours(broker.pid, data_dir):
            return False
        if _listens(broker.port) and asyncio.run(_serves(broker.address)):
            return True
        time.sleep(0.1)
    raise OperationFailed(f"the local Kafka did not answer within {START_TIMEOUT_S:.0f} s: see {_log(data_dir)}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


async def _serves(address: str) -> bool:
    # Kafka listens before it serves; KRaft names a broker in the metadata only once it is unfenced.
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    client = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=5000)
    try:
        await client.start()
        return bool((await client.describe_cluster())["brokers"])
    except KafkaError:
        return False
    finally:
        await client.close()


def _is_ours(pid: int, data_dir: Path) -> bool:
    child = _children.get(pid)
    if child is not None:  # also because a command line is empty for a moment after exec
        return child.poll() is None
    command = _command_line(pid)
    return _MAIN_CLASS in command and str(data_dir.absolute() / "server.properties") in command


def _command_line(pid: int) -> list[str]:
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return []
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return listed.stdout.split()


def _ended(pid: int, data_dir: Path, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _is_ours(pid, data_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _record(data_dir: Path) -> Path:
    return data_dir / "broker.json"


def _log(data_dir: Path) -> Path:
    return data_dir / "kafka.log"
