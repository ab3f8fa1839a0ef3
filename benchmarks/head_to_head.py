"""Quality under a budget, ours beside other people's: same rows, same embeddings, same budget, one run.

Every system decides on the test rows in the same order, sees only what the model it chose brought,
and has the same money: an arm whose mean cost is more than what is left gives way to the cheapest,
then queries are rejected and count as reward 0. Warm: all scores of the train rows are known. Cold:
only the models' mean costs are. Without arguments the examples packaged with `paretobandit` are
used; other tables are named by path and skipped when they are not there.

    python benchmarks/head_to_head.py [TABLE.parquet ...] --budget 0.113 --budget 0.25 --splits 5
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from systems import System, missing
from threadpoolctl import threadpool_limits

from worker.core.kinds import unit
from worker.core.projection import fit
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray
from worker.demo import data as examples
from worker.encode import Encoder, load
from worker.encode.stored import embed
from worker.errors import UsageError
from worker.evaluate.baselines import Task, chosen
from worker.evaluate.experiment import Bench, Cell, Comparison, Run
from worker.evaluate.measure import Measured, measure, summarise
from worker.evaluate.replay import REJECTED
from worker.evaluate.table import Columns, Split, Table, named_split, random_splits, read_table
from worker.pretrain.frame import read_frame
from worker.settings import Settings

BUDGETS = (0.02, 0.113, 0.25)
REMEMBERED = ("static-mix", "hard-cap", "gateway")  # baselines of `pilot evaluate` beside the rest
COMPONENTS = 25

Made = Callable[[Task], System]


@dataclass(frozen=True)
class Material:
    """A table, its embeddings (n, E) of unit length and its splits."""

    table: Table
    embeddings: FloatArray
    splits: Sequence[Split]


def packaged() -> tuple[Table, Sequence[Split]]:
    """The examples of `paretobandit`: validation rows to know, held-out rows to be judged on."""
    dataset = examples.load()
    known, judged = dataset.prior, dataset.stream
    prompts = [*known.prompts, *judged.prompts]
    table = Table(
        "paretobandit examples", prompts, [None] * len(prompts), None, dataset.names,
        np.vstack([known.rewards, judged.rewards]), np.vstack([known.costs, judged.costs]), None,
    )  # fmt: skip
    rows = np.arange(len(prompts))
    return table, [Split(rows[: len(known.prompts)], rows[len(known.prompts) :])]


def from_file(path: Path, splits: int) -> tuple[Table, Sequence[Split]]:
    """A table by its usual column names; models that lack scores of some rows are left out."""
    frame = read_frame(path)
    names = [str(name) for name in frame.columns]
    prefix = "score:" if any(name.startswith("score:") for name in names) else "reward:"
    rated = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    models = [model for model in rated if not frame[prefix + model].isna().any()]
    text = "question" if "question" in names else "prompt"
    label = next((name for name in ("eval_name", "task", "source") if name in names), None)
    columns = Columns(text=text, label=label, reward_prefix=prefix)
    table = read_table(path, columns, models)
    if "split" in names and {"val", "test"} <= set(frame["split"]):
        return table, [named_split(path, table, "split", ["val"], ["test"])[0]]
    return table, random_splits(table, splits)


def rivals(material: Material, split: Split, seed: int) -> Iterator[tuple[str, Made, FloatArray]]:
    """Name, maker and features (n, ·) of every other system that is installed."""
    from systems.neighbours import Neighbours

    table, train = material.table, split.train
    rewards, costs = table.rewards[train], table.costs[train]
    features = whitened(material.embeddings, train)
    if not missing(["pareto_bandit"]):
        from systems.paretobandit import ParetoBandit

        means, size = costs.mean(axis=0), features.shape[1]
        sums = [Moments.of(features[train], r) for r in rewards.T]
        yield "ParetoBandit, warm", lambda task: ParetoBandit(means, task.allowed_usd, size, sums, seed), features
        yield "ParetoBandit, cold", lambda task: ParetoBandit(means, task.allowed_usd, size, None, seed), features
    if not missing(["mabwiser"]):
        from systems.libraries import MabwiserLinUcb

        def warm(_task: Task) -> System:
            made = MabwiserLinUcb(len(table.models), features, seed=seed)
            for arm, own in enumerate(rewards.T):
                made.mab.partial_fit([arm] * len(train), own.tolist(), features[train])
            return made

        yield "MABWiser LinUCB, warm", warm, features
        yield "MABWiser LinUCB, cold", lambda _task: MabwiserLinUcb(len(table.models), features, seed=seed), features
    known = material.embeddings[train]
    yield "kNN, warm", lambda task: Neighbours(known, rewards, costs, task.allowed_usd), material.embeddings


def whitened(embeddings: FloatArray, train: np.ndarray) -> FloatArray:
    """The features that ParetoBandit's own service makes: PCA fitted on the train rows, unit variances, a 1."""
    projection = fit(embeddings[train], "benchmark", components=COMPONENTS)
    scores = (embeddings - projection.mean) @ projection.components.T
    scores /= scores[train].std(axis=0)
    return np.hstack([scores, np.ones((len(scores), 1))])


def play(system: System, features: FloatArray, task: Task) -> np.ndarray:
    """The arm of every round, or `REJECTED`, under the hard budget of one user's window."""
    means = task.table.costs[task.train].mean(axis=0)
    cheapest, left = int(means.argmin()), float(task.limits.sum())
    choice = np.full(len(task.traffic.rows), REJECTED)
    for number, row in enumerate(task.traffic.rows.tolist()):
        arm = system.decide(features[row])
        if means[arm] > left:
            arm = cheapest
        if means[arm] > left:
            continue
        reward, cost = float(task.table.rewards[row, arm]), float(task.table.costs[row, arm])
        left -= cost
        choice[number] = arm
        system.learn(arm, features[row], reward, cost)
    return choice


def compare(material: Material, encoder: Encoder, budgets: Sequence[float], seeds: int) -> Iterator[Run]:
    """Every run: ours and the baselines by `pilot evaluate`'s own bench, then the others on the same cells."""
    warm = Comparison(("pacing", *REMEMBERED), budgets, source="table", seeds=seeds)
    cold = Comparison(("pacing",), budgets, source="none", seeds=seeds)
    cells: dict[tuple[int, float, int], Cell] = {}
    for name, comparison in (("warm", warm), ("cold", cold)):
        for run in Bench(material.table, material.embeddings, encoder.identity, material.splits, comparison).runs():
            cells[run.cell.split, run.cell.budget, run.cell.seed] = run.cell
            yield run if run.policy in REMEMBERED else run._replace(policy=f"PILOT pacing, {name}")
    for cell in cells.values():
        for name, make, features in rivals(material, material.splits[cell.split], cell.seed):
            yield Run(name, cell, chosen(cell.task, play(make(cell.task), features, cell.task)))


def show(material: Material, measures: dict[tuple[str, float], list[Measured]], console: Console) -> None:
    """One line a system and budget; ± is one standard error."""
    table = material.table
    view = RichTable(title=f"{table.name}: {len(table.models)} models, {len(material.splits)} splits")
    for column in ("system", "budget", "quality", "gain over static mix", "budget used", "rejected"):
        view.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for (name, budget), runs in sorted(measures.items(), key=lambda item: item[0][1]):
        found = summarise(runs, material.splits)
        error = "" if found.vs_static_mix_se is None else f" ± {found.vs_static_mix_se:.4f}"
        view.add_row(
            name, f"{budget:.1%}", f"{found.quality_share:.4f}", f"{found.vs_static_mix:+.4f}{error}",
            f"{found.budget_used_share:.3f}", f"{found.rejected_share:.3f}",
        )  # fmt: skip
    console.print(view)


def main() -> int:
    """Compare on every table that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="*")
    parser.add_argument("--budget", type=float, action="append", help="share of the best model's cost; repeatable")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    console, settings = Console(width=140), Settings()
    encoder = load(settings.encoder, settings.embedding_dim)
    folder = settings.data_dir / "embeddings"  # where `pilot evaluate` keeps them
    try:
        with threadpool_limits(1):
            for table, splits in sources(arguments.tables, arguments.splits):
                material = Material(table, unit(embed(encoder, table.prompts, folder)), splits)
                measures: dict[tuple[str, float], list[Measured]] = defaultdict(list)
                for run in compare(material, encoder, arguments.budget or BUDGETS, arguments.seeds):
                    measures[run.policy, run.cell.budget].append(measure(run))
                show(material, measures, console)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def sources(paths: Sequence[Path], splits: int) -> Iterator[tuple[Table, Sequence[Split]]]:
    """The tables to compare on."""
    if not paths and not missing(["pareto_bandit"]):
        yield packaged()
    for path in paths:
        if path.exists():
            yield from_file(path, splits)
        else:
            print(f"{path}: not there, skipped", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
