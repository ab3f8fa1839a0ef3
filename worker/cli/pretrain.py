"""`pilot pretrain`: build a prior artefact from scores, from battles, or from unlabelled prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from worker.cli.output import in_a_folder, out_file, show
from worker.cli.root import effective_settings

if TYPE_CHECKING:
    from worker.core.verdict import FloatArray

_file = click.argument("file", type=click.Path(path_type=Path))
_out = click.option(
    "--out", type=out_file, callback=in_a_folder, required=True, metavar="prior.npz", help="The artefact."
)
_text_column = click.option("--text-column", default="prompt", show_default=True, help="Column with the prompts.")
_task_column = click.option("--task-column", help="Column with the kind of query, as events will have it in `task`.")


@click.group()
def pretrain() -> None:
    """Build a prior artefact, with a report. FILE is Parquet, CSV or JSONL."""


@pretrain.command()
@_file
@_out
@_text_column
@_task_column
@click.option("--reward-prefix", default="reward:", show_default=True, help="Prefix of the models' reward columns.")
@click.option("--cost-prefix", default="cost:", show_default=True, help="Prefix of the models' cost columns.")
@click.option("--model", "models", multiple=True, help="Only this model; repeatable. Default: all.")
def table(file: Path, out: Path, **options: Any) -> None:
    """From scores: FILE has one row a prompt, a reward and a cost column a model."""
    from worker.pretrain.table import run

    _report(run(file, out, **_encoding(), **options, progress=_say))


@pretrain.command()
@_file
@_out
@_text_column
@_task_column
@click.option(
    "--method",
    type=click.Choice(["observations", "triplet"]),
    default="observations",
    show_default=True,
    help="triplet: the paper's two phases.",
)
@click.option(
    "--votes",
    type=click.Choice(["own", "foreign"]),
    default="own",
    show_default=True,
    help="foreign: the prompts are not of your own traffic, only the models' averages transfer.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How much the prior weighs, only for triplet.",
)
def preferences(
    *,
    file: Path,
    out: Path,
    method: Literal["observations", "triplet"],
    votes: Literal["own", "foreign"],
    **options: Any,
) -> None:
    """From battles: FILE has one row a vote: prompt, model_a, model_b, winner."""
    from worker.pretrain.preferences import run

    _report(run(file, out, **_encoding(), method=method, votes=votes, **options, progress=_say))


@pretrain.command()
@_file
@_out
@_text_column
@_task_column
def texts(file: Path, out: Path, **options: Any) -> None:
    """From unlabelled prompts: only the context features, for instance of a day of your queries."""
    from worker.pretrain.texts import run

    _report(run(file, out, **_encoding(), **options, progress=_say))


def _encoding() -> dict[str, Any]:
    """The encoder that the worker will use, as the builders want it."""
    settings = effective_settings()
    import numpy as np

    from worker.encode import load

    encoder = load(settings.encoder, settings.embedding_dim)

    def encode(prompts: Sequence[str]) -> FloatArray:
        return encoder.encode(prompts).astype(np.float64)

    return {"encode": encode, "encoder_id": encoder.identity}


def _say(line: str) -> None:
    click.echo(line, err=True)


def _report(report: Mapping[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            show(value, {column: column for column in value[0]}, as_json=False, empty=name)
        else:
            print(f"{name}: {_line(value)}")


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
