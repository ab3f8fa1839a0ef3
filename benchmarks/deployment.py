"""One local Kafka, a deployment on it, and worker processes whose work is dated by the broker.

Decisions and changelogs get LogAppendTime here, so every time below is read off the
broker's own clock and no client has to be trusted with one.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from worker.kafka import connect, local, topics
from worker.kafka.publish import publish
from worker.settings import Settings

PARTITIONS = 4
READY_S = 180.0
_POLL_S = 0.1
_MAX_BATCH = 512 * 1024
MODELS = tuple(
    {
        "model": f"model-{number}",
        "input_usd_per_mtok": 0.1 * 2**number,
        "output_usd_per_mtok": 0.3 * 2**number,
        "max_output_tokens": 2048,
    }
    for number in range(11)
)


@contextmanager
def broker() -> Iterator[str]:
    """The address of a Kafka that lives as long as the block, also when SIGTERM ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that whoever started something stops it
    with tempfile.TemporaryDirectory(prefix="pilot-bench-") as folder:
        data_dir = Path(folder) / "kafka"
        try:
            yield local.start(0, data_dir)
        finally:
            local.stop(data_dir)


async def deploy(address: str, folder: Path, limit_usd: float = 1e6) -> Settings:
    """Fresh topics with eleven models and one budget for everybody."""
    settings = Settings(
        bootstrap_servers=address, topic_prefix=f"b{uuid.uuid4().hex[:8]}.", data_dir=folder, worker_id="bench",
        http_port=local.free_port(),
    )  # fmt: skip
    await topics.create(settings, PARTITIONS)
    dated = [settings.topic("decisions"), *(settings.changelog(table) for table in topics.TABLES)]
    async with connect.admin(settings) as client:
        for name in dated:
            policy = "delete" if name == settings.topic("decisions") else "compact"
            configs = {"cleanup.policy": policy, "message.timestamp.type": "LogAppendTime"}
            await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    await publish(settings, settings.topic("models"), {m["model"]: orjson.dumps(m) for m in MODELS})
    await publish(settings, settings.topic("budgets"), {"*": orjson.dumps({"limit_usd": limit_usd})})
    return settings


async def write(settings: Settings, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Append these keys and values to a topic, each on the partition of its key."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, linger_ms=5, max_batch_size=_MAX_BATCH
    ) as producer:
        for key, value in records:
            await producer.send(topic, value, key)
        await producer.flush()


async def ends(settings: Settings, topic: str) -> dict[TopicPartition, int]:
    """The end offset of every partition."""
    async with _consumer(settings) as consumer:
        return dict(await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)]))


async def until_written(settings: Settings, topic: str, records: int, patience_s: float) -> None:
    """Wait until a topic holds so many records."""
    deadline = time.monotonic() + patience_s
    async with _consumer(settings) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        while sum((await consumer.end_offsets(partitions)).values()) < records:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} did not get {records} records within {patience_s:.0f} s")
            await asyncio.sleep(_POLL_S)


async def until_committed(settings: Settings, group: str, names: Sequence[str], patience_s: float) -> None:
    """Wait until a group has committed the ends of these topics."""
    wanted = {tp: end for name in names for tp, end in (await ends(settings, name)).items()}
    deadline = time.monotonic() + patience_s
    async with connect.admin(settings) as client:
        while True:
            found = await client.list_consumer_group_offsets(group)
            if all(tp in found and found[tp].offset >= end for tp, end in wanted.items()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{group} did not commit everything within {patience_s:.0f} s")
            await asyncio.sleep(_POLL_S)


async def read(settings: Settings, topic: str) -> AsyncIterator[ConsumerRecord]:
    """Every record that a topic holds now."""
    wanted = await ends(settings, topic)
    async with _consumer(settings) as consumer:
        consumer.assign(list(wanted))
        await consumer.seek_to_beginning()
        while any([await consumer.position(tp) < end for tp, end in wanted.items()]):
            for found in (await consumer.getmany(timeout_ms=200)).values():
                for record in found:
                    yield record


async def edge_times(settings: Settings, topic: str) -> tuple[int, int]:
    """Broker time in ms of the first and of the last record of a topic."""
    first, last = 2**62, 0
    async for record in read(settings, topic):
        first, last = min(first, record.timestamp), max(last, record.timestamp)
    return first, last


@dataclass(slots=True)
class Process:
    """A process under measurement."""

    popen: subprocess.Popen[bytes]

    @property
    def cpu_s(self) -> float:
        """CPU seconds used so far, user and system."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mb(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[Process]:
    """Run a command as long as the block; SIGTERM ends it, then SIGKILL."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command, env={**inherited, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield Process(popen)
    finally:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(30)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


@contextmanager
def worker(settings: Settings, **more: str) -> Iterator[Process]:
    """A real `pilot worker` of this deployment; `more` are further settings by name."""
    environment = {
        f"PILOT_{name.upper()}": str(value)
        for name, value in {**settings.model_dump(exclude_defaults=True), **more}.items()
    }
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "worker.cli", "worker"]
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with process(command, {**threads, **environment}, settings.data_dir / "worker.log") as started:
        yield started


async def ready(settings: Settings, started: Process, patience_s: float = READY_S) -> None:
    """Wait until the worker says that it is ready."""
    deadline = time.monotonic() + patience_s
    while not await asyncio.to_thread(_answers, settings.http_port):
        if started.popen.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the worker is not ready: see {settings.data_dir / 'worker.log'}")
        await asyncio.sleep(_POLL_S)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        response.read()
    except OSError:
        return False
    else:
        return response.status == http.client.OK
    finally:
        connection.close()


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    async with AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers, enable_auto_commit=False) as consumer:
        yield consumer
