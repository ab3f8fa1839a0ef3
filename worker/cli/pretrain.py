"""`pilot pretrain`: build a prior artefact from scores."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli.output import show
from worker.cli.root import effective_settings

_file = click.argument("file", type=click.Path(path_type=Path))
_out = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="prior.npz", help="The artefact."
)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group()
def pretrain() -> None:
    """Build a prior artefact, with a report."""


@pretrain.command()
@_file
@_out
@click.option("--text-column", default="prompt", show_default=True, help="Column with the prompts.")
@click.option("--reward-prefix", default="reward:", show_default=True, help="Prefix of the models' reward columns.")
@click.option("--cost-prefix", default="cost:", show_default=True, help="Prefix of the models' cost columns.")
@click.option("--task-column", help="Column with the kind of query, as events will have it in `task`.")
@click.option("--model", "models", multiple=True, help="Only this model; repeatable. Default: all.")
def table(
    *,
    file: Path,
    out: Path,
    text_column: str,
    reward_prefix: str,
    cost_prefix: str,
    task_column: str | None,
    models: tuple[str, ...],
) -> None:
    """From scores: FILE (Parquet, CSV or JSONL) has one row a prompt, a reward and a cost column a model."""
    settings = effective_settings()
    import numpy as np

    from worker.encode import load
    from worker.pretrain import table as scores

    encoder = load(settings.encoder, settings.embedding_dim)
    report = scores.run(
        file,
        out,
        encode=lambda texts: encoder.encode(texts).astype(np.float64),
        encoder_id=encoder.identity,
        text_column=text_column,
        reward_prefix=reward_prefix,
        cost_prefix=cost_prefix,
        task_column=task_column,
        models=models,
        progress=_say,
    )
    rows = report.pop("models")
    for name, value in report.items():
        print(f"{name}: {value}")
    show(rows, {name: name for name in rows[0]}, as_json=False, empty="no models")
