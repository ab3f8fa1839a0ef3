"""`pilot budgets`: who may spend what, and who has spent what in the current window."""

from __future__ import annotations

import asyncio
import math

import click

from worker.cli.output import Row, json_option, show
from worker.cli.root import effective_settings
from worker.errors import UsageError

_HEADINGS = {
    "user_id": "user",
    "limit_usd": "limit USD",
    "window_start": "window",
    "settled_usd": "settled USD",
    "reserved_usd": "reserved USD",
    "queries": "queries",
}


@click.group()
def budgets() -> None:
    """The users' limits per budget window; USER `*` stands for everyone else."""


@budgets.command("set")
@click.argument("user")
@click.argument("usd", type=float)
def set_budget(user: str, usd: float) -> None:
    """Limit USER to USD per window."""
    settings = effective_settings()
    from worker.cli.identifiers import require_identifier
    from worker.events import MAX_LIMIT_USD, BudgetRecord
    from worker.kafka.publish import publish

    user_id = require_identifier("USER", user)
    if not math.isfinite(usd) or not 0 <= usd <= MAX_LIMIT_USD:
        raise UsageError(f"USD {usd}: must be between 0 and {MAX_LIMIT_USD:.0f}")
    record = BudgetRecord(limit_usd=usd)
    asyncio.run(publish(settings, settings.topic("budgets"), {user_id: record.model_dump_json().encode()}))
    print(f"{user_id}: {usd:.9g} USD per window of {settings.budget_window_s} s")


@budgets.command()
@click.argument("user")
def unset(user: str) -> None:
    """Return USER to the limit of `*`."""
    settings = effective_settings()
    from worker.cli.identifiers import require_identifier
    from worker.kafka.publish import publish

    user_id = require_identifier("USER", user)
    asyncio.run(publish(settings, settings.topic("budgets"), {user_id: None}))
    print(f"{user_id}: no budget of its own")


@budgets.command("list")
@json_option
def list_budgets(*, as_json: bool) -> None:
    """List the budgets with what was spent in the current window."""
    settings = effective_settings()
    from worker.kafka.listing import budgets_with_spend

    rows: list[Row] = asyncio.run(budgets_with_spend(settings))
    show(rows, _HEADINGS, as_json=as_json, empty="no budgets: everyone is unlimited")
