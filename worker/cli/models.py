"""`pilot models`: which models can be chosen, and what was learned about them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from worker.cli.output import Row, json_option, show
from worker.cli.root import effective_settings

_HEADINGS = {
    "model": "model",
    "input_usd_per_mtok": "in USD\n/Mtok",
    "output_usd_per_mtok": "out USD\n/Mtok",
    "request_usd": "USD per\nrequest",
    "enabled": "enabled",
    "observations": "rewards",
    "reward_sum": "reward\nsum",
    "costs_settled": "costs",
    "mean_output_tokens": "mean\ntokens",
}


@click.group()
def models() -> None:
    """The models that can be chosen."""


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
def apply(file: Path) -> None:
    """Write the models of a YAML FILE to the models topic; never removes one."""
    settings = effective_settings()
    from worker.cli.model_file import read_models
    from worker.kafka.publish import publish

    records = read_models(file)
    values = {name: record.model_dump_json(exclude_none=True).encode() for name, record in records.items()}
    asyncio.run(publish(settings, settings.topic("models"), dict(values)))
    for name in records:
        print(f"{name}: applied")


@models.command()
@click.argument("model")
def remove(model: str) -> None:
    """Remove a model; what was learned about it stays and counts again when it returns."""
    settings = effective_settings()
    from worker.cli.identifiers import require_identifier
    from worker.kafka.publish import publish

    name = require_identifier("MODEL", model)
    asyncio.run(publish(settings, settings.topic("models"), {name: None}))
    print(f"{name}: removed")


@models.command("list")
@json_option
def list_models(*, as_json: bool) -> None:
    """List the models with prices and what was learned about them."""
    settings = effective_settings()
    from worker.kafka.listing import models_with_learning

    rows: list[Row] = asyncio.run(models_with_learning(settings))
    show(rows, _HEADINGS, as_json=as_json, empty="no models: write some with `pilot models apply FILE`")
