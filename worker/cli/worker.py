"""`pilot worker`."""

from __future__ import annotations

import click

from worker.cli.root import effective_settings


@click.command()
def worker() -> None:
    """Run a worker: route queries and learn from feedback until stopped."""
    settings = effective_settings()
    from worker.stream.run import run

    run(settings)
