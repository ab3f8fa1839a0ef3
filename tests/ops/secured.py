"""A broker that asks for TLS, a name and rights: certificates, users, and access lists for the tests.

Listeners: SASL_SSL with every mechanism, SSL with client certificates. The controller's
listener, which no client uses, is the only one without TLS.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from worker.errors import PilotError
from worker.kafka import connect, distribution, local
from worker.settings import Settings

PASSWORD = "a-secret-that-nobody-may-read"
# SCRAM users exist before the broker starts; with PLAIN they are in its configuration.
SCRAM_USERS = ("root", "pilot-worker", "pilot-operator", "gateway", "demo", "nobody")
READY_S = 90.0
CLUSTER = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")

_SECURITY = "org.apache.kafka.common.security"
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
inter.broker.listener.name=SSL
listener.security.protocol.map=SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_root="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={security}.oauthbearer.OAuthBearerLoginModule required \\
  unsecuredLoginStringClaim_sub="broker";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:CN=broker;User:root
log.dirs={folder}/logs
auto.create.topics.enable=false
message.max.bytes=16777216
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=2000
"""


@dataclass(frozen=True, slots=True)
class Secured:
    """A running secured broker."""

    sasl: str
    ssl: str
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def as_user(self, user: str, mechanism: str = "SCRAM-SHA-512", **more: Any) -> Settings:
        """Settings of a process that logs in by name; the password is in a file."""
        return Settings(
            bootstrap_servers=self.sasl, security_protocol="SASL_SSL", sasl_mechanism=mechanism, sasl_username=user,
            sasl_password_file=self.folder / "password", ssl_cafile=self.ca, **more,
        )  # fmt: skip

    def allow(self, commands: Iterable[str]) -> None:
        """Grant what lines of `kafka-acls.sh` grant."""
        self._send(_CreateAcls([_creation(acl) for line in commands for acl in acls(line)]))

    def revoke(self, commands: Iterable[str]) -> None:
        """Take it back."""
        self._send(_DeleteAcls([_creation(acl) for line in commands for acl in acls(line)]))

    def _send(self, request: Request[Any]) -> None:
        async def send() -> None:
            async with connect.admin(self.as_user("root")) as client:
                answer = await client._send_request(request)
            assert all(result[0] == 0 for result in answer.results), answer

        asyncio.run(send())


def acls(command: str) -> Iterator[tuple[str, str, str, str, str]]:
    """The (principal, operation, resource type, name, pattern) that one line grants."""
    words = shlex.split(command)
    options = list(itertools.pairwise(words))
    (principal,) = [value for name, value in options if name == "--allow-principal"]
    operations = [value for name, value in options if name == "--operation"]
    pattern = dict(options).get("--resource-pattern-type", "literal")
    for name, value in options:
        if name in ("--topic", "--group", "--transactional-id"):
            yield from ((principal, operation, name.removeprefix("--"), value, pattern) for operation in operations)


@contextmanager
def running(folder: Path) -> Iterator[Secured]:
    """The broker, stopped at the end."""
    make_certificates(folder)
    (folder / "password").write_text(PASSWORD + "\n")
    sasl, ssl, controller = (local.free_port() for _ in range(3))
    properties = folder / "server.properties"
    properties.write_text(
        _PROPERTIES.format(
            folder=folder, sasl=sasl, ssl=ssl, controller=controller, password=PASSWORD, security=_SECURITY
        )
    )
    java = [distribution.java(), "-Xmx512m", "-Dlog4j2.level=WARN", "-cp", f"{distribution.jars()}/*"]
    users = [
        f"--add-scram=SCRAM-SHA-{bits}=[name={user},password={PASSWORD}]" for user in SCRAM_USERS for bits in (256, 512)
    ]
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={CLUSTER}", "-c", str(properties)]
    done = subprocess.run([*java, *tool, *users], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (folder / "kafka.log").open("ab")
    with log:
        process = subprocess.Popen(
            [*java, "kafka.Kafka", str(properties)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )
    try:
        broker = Secured(f"127.0.0.1:{sasl}", f"127.0.0.1:{ssl}", folder)
        _wait(broker, process)
        yield broker
    finally:
        process.terminate()
        process.wait(30)


def make_certificates(folder: Path) -> None:
    """A CA, the broker's certificate for 127.0.0.1, a client's, and another CA that signed nothing here."""
    for name in ("ca", "other-ca"):
        _openssl(
            folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.crt",
        )  # fmt: skip
    for name in ("broker", "client"):
        (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
            "-out", f"{name}.csr",
        )  # fmt: skip
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "extensions", "-out", f"{name}.crt",
        )  # fmt: skip
    (folder / "broker.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.crt").read_text())


def token(subject: str) -> str:
    """An unsigned JSON Web Token, which Kafka's development validator takes (KIP-255)."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + 3600})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _wait(broker: Secured, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with suppress(PilotError):
            asyncio.run(connect.wait_for_broker(broker.as_user("root"), 0))
            return
        said = (broker.folder / "kafka.log").read_text()
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


_RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Describe": 8, "DescribeConfigs": 10}
_PATTERNS = {"literal": 3, "prefixed": 4}
_ALLOW = 3


def _creation(acl: tuple[str, str, str, str, str]) -> tuple[Any, ...]:
    principal, operation, resource, name, pattern = acl
    return _RESOURCES[resource], name, _PATTERNS[pattern], principal, "*", _OPERATIONS[operation], _ALLOW


_ACL = Array(
    ("resource_type", Int8), ("resource_name", String("utf-8")), ("pattern_type", Int8),
    ("principal", String("utf-8")), ("host", String("utf-8")), ("operation", Int8), ("permission", Int8),
)  # fmt: skip


class _CreateAclsResponse(Response):
    API_KEY, API_VERSION = 30, 1
    SCHEMA = Schema(("throttle", Int32), ("results", Array(("code", Int16), ("message", String("utf-8")))))


class _CreateAclsStruct(RequestStruct):
    API_KEY, API_VERSION = 30, 1
    RESPONSE_TYPE = _CreateAclsResponse
    SCHEMA = Schema(("creations", _ACL))


class _CreateAcls(Request[_CreateAclsStruct]):
    API_KEY = 30

    def __init__(self, creations: list[Any]) -> None:
        self._creations = creations

    def build(self, request_struct_class: type[_CreateAclsStruct]) -> _CreateAclsStruct:
        return request_struct_class(self._creations)


class _DeleteAclsResponse(Response):
    API_KEY, API_VERSION = 31, 1
    SCHEMA = Schema(
        ("throttle", Int32),
        (
            "results",
            Array(
                ("code", Int16),
                ("message", String("utf-8")),
                (
                    "matching",
                    Array(
                        ("code", Int16), ("message", String("utf-8")), ("resource_type", Int8),
                        ("resource_name", String("utf-8")), ("pattern_type", Int8), ("principal", String("utf-8")),
                        ("host", String("utf-8")), ("operation", Int8), ("permission", Int8),
                    ),
                ),
            ),
        ),
    )  # fmt: skip


class _DeleteAclsStruct(RequestStruct):
    API_KEY, API_VERSION = 31, 1
    RESPONSE_TYPE = _DeleteAclsResponse
    SCHEMA = Schema(("filters", _ACL))


class _DeleteAcls(Request[_DeleteAclsStruct]):
    API_KEY = 31

    def __init__(self, filters: list[Any]) -> None:
        self._filters = filters

    def build(self, request_struct_class: type[_DeleteAclsStruct]) -> _DeleteAclsStruct:
        return request_struct_class(self._filters)
