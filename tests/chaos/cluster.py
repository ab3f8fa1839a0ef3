"""Real Kafka nodes in one cluster: several that replicate, or one that is also reached through a proxy."""

from __future__ import annotations

import asyncio
import base64
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from worker.kafka import distribution, local

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_PROPERTIES = """\
process.roles=broker,controller
node.id={number}
listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{proxied},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{proxy}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters={voters}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
metadata.max.idle.interval.ms=0
message.max.bytes=16777216
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=5000
leader.imbalance.check.interval.seconds=2
leader.imbalance.per.broker.percentage=0
"""


@dataclass(slots=True)
class Node:
    """One broker that is also a controller. Clients of `proxied` are told to come back through `proxy`."""

    number: int
    folder: Path
    port: int = field(default_factory=local.free_port)
    controller: int = field(default_factory=local.free_port)
    proxied: int = field(default_factory=local.free_port)
    proxy: int = field(default_factory=local.free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str]) -> None:
        with (self.folder / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "kafka.Kafka", str(self.folder / "server.properties")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def end(self, signum: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(signum)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Cluster:
    """Every topic has a copy on each node and stays writable without one of three."""

    def __init__(self, folder: Path, size: int = 1) -> None:
        self.nodes = [Node(number, folder / f"node-{number}") for number in range(1, size + 1)]
        self._command = [
            distribution.java(), "-Xmx384m", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN",
            "-cp", f"{distribution.jars()}/*",
        ]  # fmt: skip
        voters = ",".join(f"{node.number}@{HOST}:{node.controller}" for node in self.nodes)
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formatting = [self._format(node, voters, identity) for node in self.nodes]
        assert [process.wait(START_TIMEOUT_S) for process in formatting] == [0] * size

    @property
    def address(self) -> str:
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start(self._command)
        self.wait_for(len(self.nodes))

    def kill(self, node: Node) -> None:
        node.end(signal.SIGKILL)

    def restart(self, node: Node) -> None:
        node.start(self._command)
        self.wait_for(len(self.nodes))

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.send_signal(signal.SIGTERM)  # all at once: a last controller would wait for the others
        for node in self.nodes:
            node.end(signal.SIGTERM)

    def wait_for(self, count: int) -> None:
        """Wait until so many brokers are in the metadata."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while asyncio.run(_brokers(self.address)) != count:
            assert time.monotonic() < deadline, f"the cluster did not have {count} brokers in time"
            time.sleep(0.2)

    def _format(self, node: Node, voters: str, identity: str) -> subprocess.Popen[bytes]:
        node.folder.mkdir(parents=True)
        properties = node.folder / "server.properties"
        copies = min(3, len(self.nodes))
        properties.write_text(
            _PROPERTIES.format(
                number=node.number,
                host=HOST,
                port=node.port,
                proxied=node.proxied,
                proxy=node.proxy,
                controller=node.controller,
                voters=voters,
                logs=node.folder / "logs",
                copies=copies,
                in_sync=max(1, copies - 1),
            )
        )
        with (node.folder / "format.log").open("wb") as log:
            tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={identity}", "-c", str(properties)]
            return subprocess.Popen(
                [*self._command, *tool],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip


async def _brokers(address: str) -> int:
    client = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=3000)
    try:
        await client.start()
        return len((await client.describe_cluster())["brokers"])
    except KafkaError:
        return 0
    finally:
        await client.close()
