"""Rights: which operations each role needs on an authorizing broker, and which of them this process lacks.

The broker itself is asked (KIP-430: authorized operations in metadata), so one start
names every missing right, not only the first that hurts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorForGroupError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)

from worker.errors import OperationFailed
from worker.kafka import connect, metadata
from worker.kafka.topics import REPLAYED, TABLES, declared
from worker.settings import Settings

Operation = Literal["Read", "Write", "Create", "Delete", "Describe", "DescribeConfigs"]
Resource = Literal["topic", "group", "transactional-id"]
Role = Literal["producer", "reader", "worker", "operator", "demo"]

DEMO_PREFIX = "pilot-demo-"  # begins every topic, group and transactional id of `pilot demo --bootstrap`

# Codes of org.apache.kafka.common.acl.AclOperation: a right is the bit of that number.
_CODES: dict[Operation, int] = {"Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Describe": 8, "DescribeConfigs": 10}
_NOT_TOLD = -(2**31)
_COORDINATOR_MOVES = (14, 15, 16)  # loading, not available, not coordinator
_COORDINATOR_POLLS, _COORDINATOR_POLL_S = 100, 0.2


@dataclass(frozen=True, slots=True)
class Right:
    """One operation on one resource, in the words of `kafka-acls`; prefixed: on all whose names begin so."""

    resource: Resource
    name: str
    operation: Operation
    pattern: Literal["literal", "prefixed"] = "literal"


def needed(settings: Settings, role: Role) -> list[Right]:
    """The least rights of a role; Read and Write imply Describe.

    `producer` sends queries and feedback, `reader` follows the decisions (its consumer
    group is its own), `worker` is `pilot worker`, `demo` is `pilot demo --bootstrap` with all that it
    starts, `operator` every other command.
    """
    roles = {"producer": _producer, "reader": _reader, "worker": _worker, "operator": _operator, "demo": _demo}
    return list(roles[role](settings))


async def missing(settings: Settings, rights: list[Right]) -> list[Right]:
    """Those that the broker says this process lacks.

    Topics that do not exist have no rights to tell, and are left out; a broker before Kafka 2.8
    tells of none. Of groups and transactional ids it tells only whether they may be described,
    which every right implies.

    Raises:
        OperationFailed: no broker.
    """
    topics, groups, writers = (
        sorted({right.name for right in rights if right.resource == resource})
        for resource in ("topic", "group", "transactional-id")
    )
    async with connect.admin(settings) as client:
        held = await _topic_rights(client, topics)
        for group in groups:
            held[group] = await _group_rights(client, group)
        for writer in writers:
            held[writer] = await _writer_rights(client, writer)
    return [right for right in rights if not _held(right, held.get(right.name, _NOT_TOLD))]


async def require(settings: Settings, role: Role) -> None:
    """Check every right of a role that the broker tells.

    Raises:
        OperationFailed: names principal, operations and resources.
    """
    lacking = await missing(settings, needed(settings, role))
    if lacking:
        shown = "; ".join(f"{right.operation} on {right.resource} {right.name}" for right in lacking)
        raise OperationFailed(
            f"{connect.principal(settings)} lacks rights: {shown}; `pilot topics acls {role}` prints all"
        )


def commands(settings: Settings, role: Role, principal: str) -> list[str]:
    """Lines for Kafka's own `kafka-acls.sh` that grant a role's rights; resources with like rights share one."""
    operations: defaultdict[tuple[Resource, str, str], list[Operation]] = defaultdict(list)
    for right in needed(settings, role):
        operations[right.resource, right.pattern, right.name].append(right.operation)
    alike: defaultdict[tuple[Resource, str, tuple[Operation, ...]], list[str]] = defaultdict(list)
    for (resource, pattern, name), several in operations.items():
        alike[resource, pattern, tuple(several)].append(name)
    begin = f"kafka-acls.sh --bootstrap-server {settings.bootstrap_servers} --add --allow-principal {quote(principal)}"
    return [
        " ".join(
            (
                begin,
                *(f"--operation {one}" for one in several),
                *(["--resource-pattern-type prefixed"] if pattern == "prefixed" else []),
                *(f"--{resource} {name}" for name in names),
            )
        )
        for (resource, pattern, several), names in alike.items()
    ]


def _held(right: Right, bits: int) -> bool:
    return bits == _NOT_TOLD or bool(bits >> _CODES[right.operation] & 1)


async def _topic_rights(client: AIOKafkaAdminClient, names: list[str]) -> dict[str, int]:
    known = await metadata.describe(client._client, names)  # noqa: SLF001 - aiokafka has no public way
    denied = TopicAuthorizationFailedError.errno
    rights = {name: 0 if topic.error else topic.operations for name, topic in known.items()}
    return {name: bits for name, bits in rights.items() if known[name].error in (0, denied)}


async def _group_rights(client: AIOKafkaAdminClient, group: str) -> int:
    """All or none: whoever may Read a group may Describe it, which is what this asks for."""
    try:
        described = await describe_group(client, group)
    except GroupAuthorizationFailedError:
        return 0
    return 0 if described[0] == GroupAuthorizationFailedError.errno else _NOT_TOLD


async def _writer_rights(client: AIOKafkaAdminClient, transactional_id: str) -> int:
    try:
        await _once_coordinated(lambda: client.find_coordinator(transactional_id, coordinator_type=1))
    except TransactionalIdAuthorizationFailed:
        return 0
    return _NOT_TOLD


async def describe_group(client: AIOKafkaAdminClient, group: str) -> Any:
    """The broker's description of a consumer group, as it stands in the response."""

    async def describe() -> Any:
        (answer,) = await client.describe_consumer_groups([group])
        (described,) = answer.groups
        if described[0] in _COORDINATOR_MOVES:
            raise for_code(described[0])
        return described

    return await _once_coordinated(describe)


async def _once_coordinated(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer; a new broker creates its own topics for groups and transactions only now, and refuses until then."""
    for _ in range(_COORDINATOR_POLLS):
        with suppress(GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorForGroupError):
            return await ask()
        await asyncio.sleep(_COORDINATOR_POLL_S)
    raise GroupCoordinatorNotAvailableError


def _producer(settings: Settings) -> Iterator[Right]:
    for name in ("queries", "feedback"):
        yield Right("topic", settings.topic(name), "Write")


def _reader(settings: Settings) -> Iterator[Right]:
    yield Right("topic", settings.topic("decisions"), "Read")


def _worker(settings: Settings) -> Iterator[Right]:
    changelogs = [settings.changelog(table) for table in TABLES]
    for name in (*map(settings.topic, ("queries", "feedback", "models", "budgets")), *changelogs):
        yield Right("topic", name, "Read")
    for name in (*map(settings.topic, ("decisions", "dead-letters")), *changelogs):
        yield Right("topic", name, "Write")
    for topic in declared(settings):
        yield Right("topic", topic.name, "DescribeConfigs")
    yield Right("topic", settings.changelog(REPLAYED), "Describe")
    yield Right("group", settings.application_id, "Read")
    yield _owner_ids(settings)


def _operator(settings: Settings) -> Iterator[Right]:
    for topic in declared(settings):
        for operation in ("Create", "Read", "DescribeConfigs"):
            yield Right("topic", topic.name, operation)
    written = map(settings.topic, ("models", "budgets", "queries", "feedback"))
    for name in (*written, *map(settings.changelog, ("pending", "spend", REPLAYED))):
        yield Right("topic", name, "Write")
    yield Right("group", settings.application_id, "Describe")
    yield Right("transactional-id", f"{settings.application_id}-dead-letters-replay", "Write")
    yield _owner_ids(settings)


def _demo(_: Settings) -> Iterator[Right]:
    for operation in ("Create", "Read", "Write", "Delete", "DescribeConfigs"):
        yield Right("topic", DEMO_PREFIX, operation, "prefixed")
    yield Right("group", DEMO_PREFIX, "Read", "prefixed")
    yield Right("transactional-id", DEMO_PREFIX, "Write", "prefixed")


def _owner_ids(settings: Settings) -> Right:
    return Right("transactional-id", settings.owner_id(0).removesuffix("0"), "Write", "prefixed")
