"""Studies of routing quality that `pilot evaluate` has no options for; see `studies/`.

    python benchmarks/routing_studies.py TABLE.parquet --study features --study drift --splits 3

Each line: quality as a share of the best model's, gain over the best static mix of the same
rounds in hindsight (± one standard error), what is missing to the first variant on the same
rounds, quality and mean regret a round while learning, what of the budget was spent, and what
was rejected.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from head_to_head import from_file
from rich.console import Console
from rich.table import Table as RichTable
from studies import Study
from studies.cold import cold
from studies.damage import feedback
from studies.drift import drift
from studies.evidence import evidence
from studies.paper import alphas, learning, spending
from studies.parts import features, ridge, strength
from studies.stage import Material, Stage
from studies.users import jumps, late
from studies.votes import preferences, turned
from threadpoolctl import threadpool_limits

from worker.core.prior import Prior
from worker.core.verdict import FloatArray
from worker.encode import load
from worker.encode.stored import embed
from worker.errors import UsageError
from worker.evaluate.experiment import Run
from worker.evaluate.measure import Measured, measure, summarise
from worker.evaluate.table import Split
from worker.settings import Settings

STUDIES: dict[str, Study] = {
    "learning": learning,
    "alphas": alphas,
    "spending": spending,
    "preferences": preferences,
    "turned": turned,
    "features": features,
    "ridge": ridge,
    "strength": strength,
    "feedback": feedback,
    "cold": cold,
    "evidence": evidence,
    "drift": drift,
    "late": late,
    "jumps": jumps,
}


LEAST_SHARE = 0.01


def stages(material: Material, budgets: list[float], seeds: int) -> Iterator[Stage]:
    """Every split, budget and seed; what is fitted on a split is fitted once."""
    for number in range(len(material.splits)):
        fitted: dict[str, Prior] = {}
        for budget in budgets:
            for seed in range(seeds):
                yield Stage(material, number, seed, budget, fitted)


def regret(run: Run) -> float | None:
    """What the best model of each learning round would have earned more, a round."""
    if run.learning is None or run.learning_task is None:
        return None
    return float((run.learning_task.rewards.max(axis=1) - run.learning.rewards).mean())


def less(first: Sequence[Measured], others: Sequence[Measured], splits: Sequence[Split]) -> str:
    """Mean paired difference to the first variant; nothing where it is the same, or had other rounds or money."""
    paired = [
        replace(b, vs_static_mix=b.vs_static_mix - a.vs_static_mix, static_gain=b.static_gain - a.static_gain)
        for a, b in zip(first, others, strict=True)
        if np.array_equal(a.rows, b.rows) and np.isclose(_static(a), _static(b))
    ]
    if others is first or len(paired) < len(others):
        return ""
    found = summarise(paired, splits)
    return f"{found.vs_static_mix:+.4f} ± {found.vs_static_mix_se or 0:.4f}"


def _static(measured: Measured) -> float:
    return measured.quality_share - measured.vs_static_mix


def show(title: str, material: Material, found: dict[tuple[str, float], list[tuple[Measured, float | None]]]) -> None:
    """One line a variant and budget."""
    view = RichTable(title=title)
    gains = ("quality", "gain over static", "to the first", "learning")
    for column in ("variant", "budget", *gains, "regret", "used", "rejected"):
        view.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    first: dict[float, list[Measured]] = {}
    for (name, budget), runs in found.items():
        measures = [measured for measured, _ in runs]
        line = summarise(measures, material.splits)
        lost = [value for _, value in runs if value is not None]
        view.add_row(
            name, f"{budget:.1%}", f"{line.quality_share:.4f}",
            f"{line.vs_static_mix:+.4f} ± {line.vs_static_mix_se or 0:.4f}",
            less(first.setdefault(budget, measures), measures, material.splits),
            "" if line.learning_quality_share is None else f"{line.learning_quality_share:.4f}",
            f"{np.mean(lost):.4f}" if lost else "",
            f"{line.budget_used_share:.3f}", f"{line.rejected_share:.3f}",
        )  # fmt: skip
    Console(width=150).print(view)


def show_choices(name: str, material: Material, runs: list[Run]) -> None:
    """Which kind of query went to which model; models that no kind sends 1 % to are left out."""
    table = material.table
    kinds = np.array(table.labels if table.labels is not None else ["all"] * len(table.prompts))
    routed = [(kinds[run.outcome.rows], run.outcome.choice) for run in runs if run.outcome.choice is not None]
    shares: dict[str, FloatArray] = {}
    for label in np.unique(kinds).tolist():
        chosen = np.concatenate([choice[(own == label) & (choice >= 0)] for own, choice in routed])
        shares[label] = np.bincount(chosen, minlength=len(table.models)) / max(len(chosen), 1)
    used = [k for k in range(len(table.models)) if max(share[k] for share in shares.values()) >= LEAST_SHARE]
    view = RichTable("label", *(table.models[k] for k in used), title=f"{name}: share of a label's routed rounds")
    for label, share in shares.items():
        view.add_row(label, *(f"{share[k]:.2f}" for k in used))
    Console(width=200).print(view)


def main() -> int:
    """Run the studies that were named, all without a name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--study", choices=list(STUDIES), action="append", help="repeatable; default: all")
    parser.add_argument("--budget", type=float, action="append", help="share of the best model's cost; repeatable")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--battles", type=float, default=1 / 3, help="share of the train rows that are battles")
    parser.add_argument("--choices", action="store_true", help="which label's rounds went to which model")
    arguments = parser.parse_args()
    settings = Settings()
    try:
        table, splits = from_file(arguments.table, arguments.splits)
        encoder = load(settings.encoder, settings.embedding_dim)
        embeddings = embed(encoder, table.prompts, settings.data_dir / "embeddings")
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    material = Material(table, embeddings, encoder.identity, splits, arguments.battles)
    with threadpool_limits(1):
        for name in arguments.study or STUDIES:
            found, kept = defaultdict(list), defaultdict(list)
            for stage in stages(material, arguments.budget or [0.113, 0.25, 0.5], arguments.seeds):
                for run in STUDIES[name](stage):
                    found[run.policy, run.cell.budget].append((measure(run), regret(run)))
                    kept[run.policy, run.cell.budget].append(run)
            show(f"{table.name}: {name}, {len(splits)} splits", material, found)
            if not arguments.choices:
                continue
            for (variant, budget), runs in kept.items():
                show_choices(f"{variant} at {budget:.1%}", material, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
