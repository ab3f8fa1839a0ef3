"""`pilot kafka`: a local broker for development."""

from __future__ import annotations

from pathlib import Path

import click

from worker.errors import OperationFailed

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the broker keeps everything. Default: a folder of the platform.",
)


@click.group()
def kafka() -> None:
    """A local single-node Apache Kafka for development."""


@kafka.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=9092, show_default=True, help="0: any free port.")
@_data_dir
def start(port: int, data_dir: Path | None) -> None:
    """Start it in the background, wait until it answers, print its address."""
    from worker.kafka import local

    print(local.start(port, data_dir or local.default_data_dir()))


@kafka.command()
@_data_dir
def stop(data_dir: Path | None) -> None:
    """Stop it; its data stay."""
    from worker.kafka import local

    print("stopped" if local.stop(data_dir or local.default_data_dir()) else "not running")


@kafka.command()
@_data_dir
def status(data_dir: Path | None) -> None:
    """Print the address of the running broker; exit code 1 when none runs."""
    from worker.kafka import local

    broker = local.status(data_dir or local.default_data_dir())
    if broker is None:
        raise OperationFailed("the local Kafka is not running: start it with `pilot kafka start`")
    print(broker.address)
