"""`pilot users`: what is kept under a user's name, and its end."""

from __future__ import annotations

import asyncio

import click

from worker.cli.root import effective_settings
from worker.errors import UsageError


@click.group()
def users() -> None:
    """Forget users."""


@users.command()
@click.argument("names", metavar="USER...", nargs=-1, required=True)
def forget(names: tuple[str, ...]) -> None:
    """Remove decisions, parked feedback, spend and budget of each USER; all workers must be stopped.

    The topics keep their records until their retention ends, and what models learned stays: its sums name nobody.
    """
    settings = effective_settings()
    from worker.cli.identifiers import require_identifier
    from worker.events import EVERYONE_ELSE
    from worker.kafka.forget import forget as forget_users

    user_ids = [require_identifier("USER", name) for name in dict.fromkeys(names)]
    if EVERYONE_ELSE in user_ids:
        raise UsageError(f"USER {EVERYONE_ELSE!r}: stands for everyone else; name the users one by one")
    for user_id, done in asyncio.run(forget_users(settings, user_ids)).items():
        print(f"{user_id}: {done.queries} queries, {done.windows} budget windows, {done.budgets} budgets forgotten")
