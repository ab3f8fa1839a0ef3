"""The command `pilot evaluate`: options in, progress and a table out, files at the end or not at all."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker import routing
from worker import settings as configuration
from worker.cli.output import in_a_folder, out_file
from worker.core.router import RouterOptions
from worker.encode import load as load_encoder
from worker.encode.stored import embed
from worker.errors import UsageError
from worker.evaluate import plot, report
from worker.evaluate.experiment import POLICIES, Bench, Comparison, PriorSource, Run, check
from worker.evaluate.measure import measure
from worker.evaluate.table import Columns, Split, Table, named_split, random_splits, read_table
from worker.evaluate.traffic import Crowd
from worker.settings import Settings

BESIDE = ("best", "cheapest", "random", "static-mix", "gateway", "hard-cap", "oracle")
DEFAULT_BUDGETS = (0.113, 0.25, 0.5)
_PLAIN_WIDTH = 160  # of the table in a file or pipe, where no terminal says how wide it is
SOURCES: tuple[PriorSource, ...] = ("table", "bandit", "none")


# A budget may exceed what the best model costs.
_SHARE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, help="Repeatable. Default: PILOT_POLICY and the usual baselines.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=_SHARE,
    default=DEFAULT_BUDGETS,
    show_default=True,
    help="Share of the best model's total cost on the test rows. Repeatable.",
)
@click.option("--quality-floor", type=click.FloatRange(0, 1, min_open=True), help="For policy floor.")
@click.option("--prior", default="table", show_default=True, help="table, bandit, none, or an artefact's file.")
@click.option("--learn", type=click.IntRange(0), help="With an artefact: train rows to learn from as a bandit.")
@click.option("--freeze", is_flag=True, help="No learning and no bonus during the test rows.")
@click.option("--text-column", default="prompt", show_default=True)
@click.option("--task-column", help="Becomes the event's task.")
@click.option("--label-column", help="Allows label-lookup; the policies do not see it.")
@click.option("--reward-prefix", default="reward:", show_default=True)
@click.option("--cost-prefix", default="cost:", show_default=True)
@click.option("--max-cost-prefix", default="max-cost:", show_default=True, help="Bounds, for --reserve worst_case.")
@click.option("--split-column", default="split", show_default=True)
@click.option("--train", multiple=True, default=("train",), show_default=True, help="Repeatable.")
@click.option("--test", multiple=True, default=("test",), show_default=True, help="Repeatable.")
@click.option("--splits", type=click.IntRange(1), help="Random 70/30 splits in place of the split column.")
@click.option("--model", "models", multiple=True, help="Only these models. Repeatable.")
@click.option("--users", type=click.IntRange(1), default=1, show_default=True)
@click.option("--queries", type=click.IntRange(1), help="Queries of all users in a window.")
@click.option("--windows", type=click.IntRange(1), default=1, show_default=True)
@click.option("--horizon", type=click.Choice(["known", "learned"]), default="known", show_default=True)
@click.option(
    "--budget-spread",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Log-normal spread of the users' budgets.",
)
@click.option("--delay", type=click.IntRange(0), default=0, show_default=True, help="Feedback so many queries late.")
@click.option("--reserve", type=click.Choice(["expected", "quantile", "worst_case"]))
@click.option("--preset", type=click.Choice(["default", "paper"]))
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "json_out", type=out_file, callback=in_a_folder, help="Write the results.")
@click.option("--plot", "plot_out", type=out_file, callback=in_a_folder, help="Draw: .png, .svg or .html.")
def evaluate(table: Path, **options: Any) -> None:
    """Replay TABLE, one row a prompt with every model's reward and cost, under budgets."""
    environ = dict(os.environ)
    if options["preset"] is not None:
        environ["PILOT_PRESET"] = options["preset"]
    settings, _ = configuration.load(click.get_current_context().find_root().obj, environ)
    run(table, settings, options)


def run(path: Path, settings: Settings, options: dict[str, Any]) -> None:
    """The whole command, after its options are parsed.

    Raises:
        UsageError: table, prior or options cannot be used; nothing is written.
    """
    if options["plot_out"] is not None:
        plot.check(options["plot_out"])
    for name in ("budgets", "budget_spread"):
        _check_finite(name, options[name])
    comparison = _comparison(settings, options)
    columns = Columns(
        options["text_column"],
        options["task_column"],
        options["label_column"],
        options["split_column"],
        options["reward_prefix"],
        options["cost_prefix"],
        options["max_cost_prefix"],
    )
    bounded = comparison.router.reserve == "worst_case"
    table = read_table(path, columns, options["models"], bounded=bounded)
    console = Console(stderr=True)
    splits = _splits(path, table, columns, options, console)
    fewest = min(len(split.train) for split in splits)
    if comparison.learn is not None and comparison.learn > fewest:
        console.print(f"warning: --learn {comparison.learn}: there are only {fewest} train rows to learn from")
    encoder = load_encoder(settings.encoder, settings.embedding_dim)
    check(table, encoder.identity, splits, comparison)
    with _progress(console) as progress:
        encoding = progress.add_task("encoding", total=len(table.prompts))
        folder = settings.data_dir / "embeddings"
        embeddings = embed(encoder, table.prompts, folder, lambda count: progress.advance(encoding, count))
        bench = Bench(table, embeddings, encoder.identity, splits, comparison)
        replaying = progress.add_task("replaying", total=bench.count)
        measures: report.Measures = defaultdict(list)
        shown: list[Run] = []
        for done in bench.runs():
            measures[done.policy, done.cell.budget].append(measure(done))
            if done.cell.split == 0 and done.cell.seed == 0:
                shown.append(done)
            progress.advance(replaying)
    document = report.as_json(table, splits, comparison, measures, prior=options["prior"], preset=settings.preset)
    _show(document)
    if options["json_out"] is not None:
        report.write_json(document, options["json_out"])
    if options["plot_out"] is not None:
        plot.draw(options["plot_out"], document, table, splits, shown)


def _check_finite(name: str, given: float | Sequence[float]) -> None:
    """Ranges of click let NaN and infinity pass."""
    values = [given] if isinstance(given, float) else given
    if not all(math.isfinite(value) for value in values):
        raise UsageError(f"--{name.removesuffix('s').replace('_', '-')}: not a finite number")


def _show(document: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    console.print(report.as_table(document))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        console.print("encoding and replaying; on a terminal this shows its progress")
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _splits(path: Path, table: Table, columns: Columns, options: dict[str, Any], console: Console) -> Sequence[Split]:
    if options["splits"] is not None:
        return random_splits(table, options["splits"])
    split, dropped = named_split(path, table, columns.split, options["train"], options["test"])
    if dropped:
        console.print(f"warning: {dropped} train rows dropped, their prompts are in the test rows too")
    return [split]


def _comparison(settings: Settings, options: dict[str, Any]) -> Comparison:
    policies = tuple(dict.fromkeys(options["policies"] or (settings.policy, *BESIDE)))
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown:
        raise UsageError(f"--policy {unknown[0]}: one of {', '.join(POLICIES)}")
    source: PriorSource = options["prior"] if options["prior"] in SOURCES else "file"
    if options["learn"] is not None and source != "file":
        raise UsageError("--learn: only with an artefact, --prior FILE")
    if options["budget_spread"] and options["users"] == options["windows"] == 1 and options["queries"] is None:
        raise UsageError("--budget-spread: only with --users, --queries or --windows")
    return Comparison(
        policies=policies,
        budgets=tuple(dict.fromkeys(options["budgets"])),
        source=source,
        artefact=routing.load_prior(Path(options["prior"])) if source == "file" else None,
        learn=options["learn"],
        freeze=options["freeze"],
        crowd=Crowd(
            options["users"], options["queries"], options["windows"], options["horizon"], options["budget_spread"]
        ),
        delay=options["delay"],
        seeds=options["seeds"],
        router=_router(settings, options),
    )


def _router(settings: Settings, options: dict[str, Any]) -> RouterOptions:
    """The settings, with what the command line says in their place."""
    given = {name: options[name] for name in ("reserve", "quality_floor") if options[name] is not None}
    return replace(routing.options(settings), **given)
