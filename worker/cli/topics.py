"""`pilot topics`: create the topics, check them, say who needs which rights on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from worker.cli.root import effective_settings
from worker.errors import OperationFailed

if TYPE_CHECKING:
    from worker.kafka.rights import Role


@click.group()
def topics() -> None:
    """Create all topics, changelogs included, or check them."""


@topics.command()
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    help="Of queries, feedback, decisions and changelogs. Default: as the existing ones, else 4.",
)
@click.option("--replication", type=click.IntRange(1, 100), help="Copies of each partition. Default: the broker's.")
def create(partitions: int | None, replication: int | None) -> None:
    """Create what is missing; what exists stays as it is."""
    settings = effective_settings()
    from worker.kafka import topics as declared

    copies = declared.BROKER_DEFAULT if replication is None else replication
    created, existing = asyncio.run(declared.create(settings, partitions, copies))
    for name in created:
        print(f"{name}: created")
    for name in existing:
        print(f"{name}: exists")


@topics.command()
def check() -> None:
    """Say what differs from what is needed."""
    settings = effective_settings()
    from worker.kafka import topics as declared

    differences = asyncio.run(declared.check(settings))
    for line in differences:
        print(line)
    if differences:
        raise OperationFailed(f"{len(differences)} differences from what is needed")
    print("all topics are as needed")


@topics.command()
@click.argument("role", type=click.Choice(["producer", "reader", "worker", "operator", "demo"]))
@click.option("--principal", metavar="TYPE:NAME", help="Who gets the rights. Default: User:pilot-ROLE.")
def acls(role: Role, principal: str | None) -> None:
    """Print the `kafka-acls` commands that give ROLE its least rights; nothing is changed."""
    settings = effective_settings()
    from worker.kafka import rights

    for line in rights.commands(settings, role, principal or f"User:pilot-{role}"):
        print(line)
