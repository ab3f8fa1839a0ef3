"""`pilot worker`."""

from __future__ import annotations

import logging

import click

from worker.cli.root import effective_settings
from worker.errors import UsageError


@click.command()
def worker() -> None:
    """Run a worker: route queries and learn from feedback until stopped."""
    settings = effective_settings()
    from worker.core.policies import SUPPORTED
    from worker.stream.run import run

    if settings.policy not in SUPPORTED:
        raise UsageError(f"PILOT_POLICY={settings.policy!r}: this version has {', '.join(SUPPORTED)}")
    # A worker rate-limits this logger instead of muting it.
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)
    run(settings)
