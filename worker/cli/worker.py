"""`pilot worker`."""

from __future__ import annotations

import logging

import click

from worker.cli.root import effective_settings


@click.command()
def worker() -> None:
    """Run a worker: route queries and learn from feedback until stopped."""
    settings = effective_settings()
    from worker.stream.run import run

    # A worker rate-limits this logger instead of muting it.
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)
    run(settings)
