"""TLS, SASL and least rights, on a real broker that insists on all three."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from tests.broker.support import READY_S, Client, WorkerProcess, environment, until
from tests.ops import secured
from tests.ops.secured import PASSWORD, Secured
from worker.errors import OperationFailed, UsageError
from worker.kafka import connect, rights, topics
from worker.kafka.rights import Right, Role
from worker.settings import Settings

pytestmark = [
    pytest.mark.ops,
    # aiokafka closes a refused connection without waiting for TLS to say goodbye.
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
DEMO_S = 600.0
MARKER = "the prompt that stays between us"


@pytest.fixture(scope="module", autouse=True)
def connections_collected_here() -> Iterator[None]:
    """What aiokafka left open is collected while this module's filters hold."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The secured broker of all tests here."""
    with secured.running(tmp_path_factory.mktemp("secured")) as running:
        yield running


def grant(broker: Secured, settings: Settings, role: Role, user: str) -> None:
    """What `pilot topics acls` prints for the role, and nothing else."""
    broker.allow(rights.commands(settings, role, f"User:{user}"))


def pilot(
    settings: Settings, *arguments: str, timeout_s: float = 120.0, **more: Any
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker.cli", *arguments]
    return subprocess.run(
        command, env=environment(settings, 0, **more), capture_output=True, text=True, check=False, timeout=timeout_s
    )


def created(settings: Settings) -> bool:
    """Whether all topics are there now."""
    with suppress(OperationFailed):
        asyncio.run(topics.create(settings, 1))
        return True
    return False


@dataclass(frozen=True, slots=True)
class Guarded:
    """A deployment in which everybody has the least rights, and a worker that runs with its own."""

    operator: Settings
    gateway: Client
    worker: WorkerProcess


@pytest.fixture(scope="module")
def guarded(broker: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Made with the commands of an operator who has an operator's rights."""
    folder = tmp_path_factory.mktemp("guarded")
    operator = broker.as_user("pilot-operator", data_dir=folder / "state")
    grant(broker, operator, "operator", "pilot-operator")
    grant(broker, operator, "worker", "pilot-worker")
    for role in ("producer", "reader"):
        grant(broker, operator, role, "gateway")
    models = folder / "models.yaml"
    models.write_text("models:\n- {model: only, input_usd_per_mtok: 1, output_usd_per_mtok: 2}\n")
    for command in (["topics", "create"], ["models", "apply", str(models)], ["budgets", "set", "*", "5"]):
        done = pilot(operator, *command)
        assert done.returncode == 0, done.stderr
    worker = WorkerProcess(
        broker.as_user("pilot-worker", data_dir=folder / "state"), folder / "worker.log", log_level="debug"
    )
    # Commits are read as the operator, for the contract client also looks at the group.
    gateway = Client(broker.as_user("root"))
    try:
        worker.ready(for_text=False)
        yield Guarded(operator, gateway, worker)
    finally:
        gateway.close()
        worker.kill()


def token_settings(broker: Secured) -> Settings:
    (broker.folder / "token").write_text(secured.token("root"))
    return Settings(
        bootstrap_servers=broker.sasl, security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER",
        sasl_token_file=broker.folder / "token", ssl_cafile=broker.ca,
    )  # fmt: skip


def certificate_settings(broker: Secured) -> Settings:
    return Settings(
        bootstrap_servers=broker.ssl, security_protocol="SSL", ssl_cafile=broker.ca,
        ssl_certfile=broker.folder / "client.crt", ssl_keyfile=broker.folder / "client.key",
    )  # fmt: skip


WAYS_IN: dict[str, Callable[[Secured], Settings]] = {
    "PLAIN": lambda broker: broker.as_user("root", "PLAIN"),
    "SCRAM-SHA-256": lambda broker: broker.as_user("root", "SCRAM-SHA-256"),
    "SCRAM-SHA-512": lambda broker: broker.as_user("root", "SCRAM-SHA-512"),
    "OAUTHBEARER": token_settings,
    "client certificate": certificate_settings,
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_works(broker: Secured, way: str) -> None:
    """Each mechanism, and a client certificate without any, reaches the broker."""
    asyncio.run(connect.wait_for_broker(WAYS_IN[way](broker), 0))


def changed(broker: Secured, **changes: Any) -> Settings:
    return Settings(**{**broker.as_user("root").model_dump(exclude_unset=True), **changes})


REFUSALS: dict[str, tuple[Callable[[Secured], Settings], str]] = {
    "unknown user": (
        lambda broker: broker.as_user("stranger"),
        "PILOT_SASL_PASSWORD: {} does not accept User:stranger",
    ),
    "wrong mechanism for the user": (
        lambda broker: broker.as_user("nobody", "PLAIN"),
        "PILOT_SASL_PASSWORD: {} does not accept User:nobody",
    ),
    "another CA": (
        lambda broker: changed(broker, ssl_cafile=broker.folder / "other-ca.crt"),
        "PILOT_SSL_CAFILE (",
    ),
    "the system's CAs": (lambda broker: changed(broker, ssl_cafile=None), "PILOT_SSL_CAFILE (not set): "),
    "no such CA file": (
        lambda broker: changed(broker, ssl_cafile=broker.folder / "nowhere.crt"),
        "PILOT_SSL_CAFILE=",
    ),
    "a CA file without a certificate": (
        lambda broker: changed(broker, ssl_cafile=broker.folder / "password"),
        "PILOT_SSL_CAFILE=",
    ),
    "no such password file": (
        lambda broker: changed(broker, sasl_password_file=broker.folder / "nowhere"),
        "PILOT_SASL_PASSWORD_FILE=",
    ),
    "a key that is not the certificate's": (
        lambda broker: changed(
            broker, ssl_certfile=broker.folder / "client.crt", ssl_keyfile=broker.folder / "broker.key"
        ),
        "PILOT_SSL_CERTFILE=",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_named(broker: Secured, case: str) -> None:
    """Whoever is refused reads which setting to correct, at once."""
    settings, line = REFUSALS[case]
    with pytest.raises(UsageError) as refused:
        asyncio.run(connect.wait_for_broker(settings(broker), 0))
    assert str(refused.value).startswith(line.format(broker.sasl))
    assert PASSWORD not in str(refused.value)


def test_a_listener_of_another_protocol_is_told_apart_from_none(broker: Secured) -> None:
    """Something listens, so the address is right and the protocol is not."""
    plain = Settings(bootstrap_servers=broker.sasl)
    with pytest.raises(OperationFailed, match="takes connections, but not with PILOT_SECURITY_PROTOCOL=PLAINTEXT"):
        asyncio.run(connect.wait_for_broker(plain, 0))


def test_wrong_security_is_exit_2(broker: Secured) -> None:
    """A worker does not wait a minute for a broker that will never let it in."""
    refused = pilot(broker.as_user("stranger"), "worker")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("pilot: PILOT_SASL_PASSWORD: ")
    assert PASSWORD not in refused.stdout + refused.stderr


def test_a_worker_needs_no_more_than_its_list(guarded: Guarded) -> None:
    """With exactly the printed rights a worker decides, settles, learns, sets aside and commits."""
    client = guarded.gateway
    decision = client.decide("ann")
    assert (decision["status"], decision["model"]) == ("routed", "only")
    client.settle("ann", decision["query_id"], cost_usd=0.25, reward=1.0, input_tokens=10, output_tokens=20)
    assert client.account("ann")["settled_usd"] == 0.25
    until(lambda: client.learned("only")["observations"] >= 1, "learning")
    assert client.code(client.send("queries", b"ann", b"not json")) == "invalid_json"


def test_commands_need_no_more_than_the_operators_list(guarded: Guarded) -> None:
    """Every command on the topics works with the operator's rights; that of forgetting gets as far as the worker."""
    client, operator = guarded.gateway, guarded.operator
    query_id = client.decide("bob")["query_id"]
    client.send("feedback", b"bob", b"not json")
    until(lambda: "1 to put back" in pilot(operator, "dead-letters", "replay", "--dry-run").stdout.replace("2 ", "1 "))
    for command in (
        ["topics", "check"], ["models", "list"], ["budgets", "list"], ["dead-letters", "replay"],
        ["explain", query_id], ["tail", "decisions", "--since", "2020-01-01T00:00:00Z", "--limit", "1"],
    ):  # fmt: skip
        done = pilot(operator, *command)
        assert done.returncode == 0, (command, done.stderr)
    refused = pilot(operator, "users", "forget", "bob", session_timeout_s=2)
    assert (refused.returncode, "has members" in refused.stderr) == (1, True)


def test_a_gateway_needs_no_more_than_two_lists(guarded: Guarded, broker: Secured) -> None:
    """With the rights of producer and reader a gateway asks, reads the decision and gives feedback."""
    del guarded

    async def ask() -> bytes:
        gateway = broker.as_user("gateway")
        async with connect.reader(gateway, "pilot.decisions") as decisions:
            ends = await decisions.end_offsets(list(decisions.assignment()))
            for tp, end in ends.items():
                decisions.seek(tp, end)
            async with connect.producer(gateway) as producer:
                vector = str([1.0] * 384)
                query = f'{{"query_id": "q", "user_id": "eve", "embedding": {vector}}}'.encode()
                await producer.send_and_wait("pilot.queries", query, key=b"eve")
                feedback = b'{"query_id": "q", "user_id": "eve", "cost_usd": 0.1}'
                await producer.send_and_wait("pilot.feedback", feedback, key=b"eve")
            record = await asyncio.wait_for(decisions.getone(), 30)
        return bytes(record.value)

    assert b'"routed"' in asyncio.run(ask())


def test_the_demo_needs_no_more_than_its_list(broker: Secured, tmp_path: Path) -> None:
    """On a broker that is not its own it creates, routes, learns and cleans up, and tells nobody the password."""
    demo = broker.as_user("demo", data_dir=tmp_path / "state")
    grant(broker, demo, "demo", "demo")
    out = tmp_path / "out"
    done = pilot(
        demo, "demo", "--bootstrap", broker.sasl, "--queries", "30", "--users", "2", "--out", str(out), timeout_s=DEMO_S
    )
    assert done.returncode == 0, done.stdout + done.stderr

    async def left() -> list[str]:
        async with connect.admin(broker.as_user("root")) as client:
            return [name for name in await client.list_topics() if name.startswith(rights.DEMO_PREFIX)]

    assert asyncio.run(left()) == []
    written = [file.read_bytes() for file in out.rglob("*") if file.is_file()]
    assert not any(PASSWORD.encode() in content for content in (*written, done.stdout.encode(), done.stderr.encode()))


WORKER_RIGHTS = rights.needed(Settings(), "worker")


@pytest.mark.parametrize("right", WORKER_RIGHTS, ids=lambda right: f"{right.operation} {right.name}")
def test_a_worker_names_the_right_that_it_lacks(guarded: Guarded, broker: Secured, right: Right) -> None:
    """Each right taken away is named with operation, resource and principal, before anything starts."""
    del guarded
    pattern = f"--resource-pattern-type {right.pattern}"
    line = f"--allow-principal User:nobody --operation {right.operation} {pattern} --{right.resource} {right.name}"
    worker = broker.as_user("nobody")
    grant(broker, worker, "worker", "nobody")
    broker.revoke([line])
    try:
        with pytest.raises(OperationFailed) as refused:
            asyncio.run(rights.require(worker, "worker"))
        said = str(refused.value)
        assert said.startswith("User:nobody lacks rights: ")
        assert f"{right.operation} on {right.resource} {right.name}" in said
    finally:
        broker.allow([line])


def test_a_worker_without_a_right_is_exit_1(guarded: Guarded, broker: Secured) -> None:
    """The command ends with the line and does nothing else."""
    worker = broker.as_user("nobody", data_dir=guarded.operator.data_dir)
    grant(broker, worker, "worker", "nobody")
    line = "--allow-principal User:nobody --operation Write --topic pilot.decisions"
    broker.revoke([line])
    refused = pilot(worker, "worker")
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("pilot: User:nobody lacks rights: Write on topic pilot.decisions; ")


@pytest.mark.parametrize("topic", ["queries", "feedback"])
def test_a_producer_without_its_right_cannot_write(guarded: Guarded, broker: Secured, topic: str) -> None:
    """Each right of the producer's list is needed: without it the broker refuses the record."""
    del guarded
    line = f"--allow-principal User:gateway --operation Write --topic pilot.{topic}"
    broker.revoke([line])

    async def send() -> None:
        async with connect.producer(broker.as_user("gateway")) as producer:
            await producer.send_and_wait(f"pilot.{topic}", b"{}", key=b"x")

    try:
        with pytest.raises(OperationFailed, match=r"User:gateway may not Write: .*TopicAuthorizationFailed") as refused:
            asyncio.run(send())
        assert isinstance(refused.value.__cause__, TopicAuthorizationFailedError)
    finally:
        broker.allow([line])


OPERATIONS: dict[str, tuple[Right, list[str]]] = {
    "tail": (Right("topic", "pilot.decisions", "Read"), ["tail", "decisions"]),
    "budgets set": (Right("topic", "pilot.budgets", "Write"), ["budgets", "set", "ann", "1"]),
    "topics check": (Right("topic", "pilot.queries", "DescribeConfigs"), ["topics", "check"]),
    "users forget": (Right("group", "pilot", "Describe"), ["users", "forget", "ann"]),
    "dead-letters replay": (
        Right("transactional-id", "pilot-dead-letters-replay", "Write"),
        ["dead-letters", "replay"],
    ),
}


@pytest.mark.parametrize("command", OPERATIONS)
def test_a_command_names_the_right_that_it_lacks(guarded: Guarded, broker: Secured, command: str) -> None:
    """The line says who may not do what."""
    right, arguments = OPERATIONS[command]
    line = f"--allow-principal User:pilot-operator --operation {right.operation} --{right.resource} {right.name}"
    broker.revoke([line])
    try:
        refused = pilot(guarded.operator, *arguments)
        assert refused.returncode == 1
        assert refused.stderr.startswith("pilot: User:pilot-operator may not ")
        assert right.name in refused.stderr or right.resource == "transactional-id"
    finally:
        broker.allow([line])


def test_creating_a_topic_needs_the_right(broker: Secured) -> None:
    """Without Create the missing topic is named."""
    settings = broker.as_user("pilot-operator", topic_prefix="other.")
    grant(broker, settings, "operator", "pilot-operator")
    line = "--allow-principal User:pilot-operator --operation Create --topic other.models"
    broker.revoke([line])
    with pytest.raises(OperationFailed, match=r"User:pilot-operator may not Create: other\.models"):
        asyncio.run(topics.create(settings))


def test_a_right_withdrawn_from_a_running_worker_ends_it(guarded: Guarded, broker: Secured) -> None:
    """It can do no work any more, so it says what it lacks and leaves it to a supervisor to try again."""
    folder = guarded.operator.data_dir / "withdrawn"
    settings = broker.as_user("nobody", topic_prefix="withdrawn.", data_dir=folder)
    operator = broker.as_user("pilot-operator", topic_prefix="withdrawn.")
    grant(broker, settings, "worker", "nobody")
    grant(broker, settings, "operator", "pilot-operator")
    until(lambda: created(operator), "topics; a right takes effect a moment after it was given")
    folder.mkdir(parents=True)
    worker = WorkerProcess(settings, folder / "worker.log")
    client = Client(broker.as_user("root", topic_prefix="withdrawn."))
    try:
        client.model("only")
        worker.ready(for_text=False)
        client.decide("ann")
        broker.revoke(["--allow-principal User:nobody --operation Write --topic withdrawn.decisions"])
        client.query("ann")
        assert worker.wait(60) == 72
        assert "TopicAuthorizationFailed" in worker.said()
    finally:
        client.close()
        worker.kill()


def test_secrets_and_prompts_are_not_told(guarded: Guarded) -> None:
    """Neither the password nor a prompt is in the worker's log at debug, in `pilot settings` or in a repr."""
    client = guarded.gateway
    query_id, _ = client.query("zoe", text=MARKER)
    until(lambda: client.seen(query_id), "the first text, which loads the encoder", READY_S)
    client.send("queries", b"zoe", f'{{"query_id": 1, "text": "{MARKER}"}}'.encode())
    client.settle("zoe", query_id, cost_usd=0.1)
    said = guarded.worker.said()
    assert query_id in said, "the log is not at debug"
    shown = pilot(guarded.operator, "settings", sasl_password=PASSWORD, sasl_password_file="")
    assert shown.returncode == 0, shown.stderr
    pages = guarded.worker.get("/metrics")[1] + guarded.worker.get("/readyz")[1]
    for text in (said, pages, shown.stdout, repr(Settings(sasl_password=PASSWORD)), repr(guarded.operator)):
        assert PASSWORD not in text
        assert MARKER not in text
