"""The least rights of each role, as data and as commands."""

from __future__ import annotations

import pytest

from tests.ops.secured import acls
from worker.kafka import rights
from worker.kafka.rights import Role
from worker.kafka.topics import declared
from worker.settings import Settings

ROLES: list[Role] = ["producer", "reader", "worker", "operator"]
SETTINGS = Settings(topic_prefix="shop.")


@pytest.mark.parametrize("role", ROLES)
def test_the_commands_grant_exactly_the_rights(role: Role) -> None:
    """What is printed is what is checked at start, no more and no less."""
    granted = [acl for line in rights.commands(SETTINGS, role, "User:x") for acl in acls(line)]
    needed = [
        ("User:x", right.operation, right.resource, right.name, right.pattern)
        for right in rights.needed(SETTINGS, role)
    ]
    assert sorted(granted) == sorted(needed)
    assert len(set(granted)) == len(granted)


@pytest.mark.parametrize("role", ROLES)
def test_rights_are_on_resources_of_the_deployment_alone(role: Role) -> None:
    """No wildcard, no cluster, nothing of another prefix."""
    ours = {topic.name for topic in declared(SETTINGS)} | {"shop", "shop-dead-letters-replay", "shop-partition-"}
    assert {right.name for right in rights.needed(SETTINGS, role)} <= ours


def test_a_worker_may_not_write_what_others_write() -> None:
    """Queries, feedback, models and budgets belong to other programs."""
    written = {right.name for right in rights.needed(SETTINGS, "worker") if right.operation == "Write"}
    assert written.isdisjoint(map(SETTINGS.topic, ("queries", "feedback", "models", "budgets")))
