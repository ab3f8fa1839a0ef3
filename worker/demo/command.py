"""`pilot demo`: the main job on real prompts, from nothing to report."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from worker.errors import UsageError

LOG_WIDTH = 160  # a line of a log is not cut at 80


@click.command()
@click.option("--queries", default=1600, show_default=True, type=click.IntRange(1), help="How many prompts to route.")
@click.option("--users", default=20, show_default=True, type=click.IntRange(1), help="How many users ask them.")
@click.option("--prior-rows", type=click.IntRange(1), help="Build the prior from so many prompts only.  [all 1785]")
@click.option("--policy", type=click.Choice(["pacing", "zcl", "floor", "unlimited"]), help="Budget policy.")
@click.option("--preset", type=click.Choice(["default", "paper"]), help="paper: PILOT as published.")
@click.option("--bootstrap", metavar="HOST:PORT", help="Use this broker instead of starting a local one.")
@click.option("--keep", is_flag=True, help="Leave broker, topics and state as they are at the end.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report, logs and state.")
def demo(
    *,
    queries: int,
    users: int,
    prior_rows: int | None,
    policy: str | None,
    preset: str | None,
    bootstrap: str | None,
    keep: bool,
    out: Path | None,
) -> None:
    """Route real prompts with recorded rewards and costs through Kafka and two workers, then report."""
    from rich.console import Console

    from worker.demo import run

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, LOG_WIDTH)
    run.run(run.Options(queries, users, prior_rows, policy, preset, bootstrap, keep, _folder(out)), console)


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="pilot-demo-"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; choose a folder that can be written") from None
    return out.absolute()
