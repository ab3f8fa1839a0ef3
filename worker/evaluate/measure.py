"""From runs to results: quality as a share of the best model's, paired differences, budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.core.verdict import FloatArray
from worker.evaluate.baselines import Task
from worker.evaluate.experiment import Run
from worker.evaluate.replay import Outcome
from worker.evaluate.table import Split

BOOTSTRAPS = 1_000
_CENT_OF_A_NANO = 1e-11  # USD: below any amount of money, above the rounding of a float


@dataclass(frozen=True)
class Measured:
    """The figures of one run that results average. Field names are those of the JSON."""

    split: int
    quality_share: float
    vs_static_mix: float
    vs_label_lookup: float | None
    learning_quality_share: float | None
    budget_used_share: float
    rejected_share: float
    users_over_share: float
    max_overspend: float
    decisions_per_s: float | None
    # What every round gained over the two baselines, by table row, for the bootstrap.
    rows: FloatArray
    static_gain: FloatArray
    lookup_gain: FloatArray | None


def measure(run: Run) -> Measured:
    """The figures of one run."""
    outcome, cell = run.outcome, run.cell
    reference = _reference(cell.task)
    static_gain = (outcome.rewards - cell.static.rewards) / reference
    lookup_gain = None if cell.lookup is None else (outcome.rewards - cell.lookup.rewards) / reference
    active = np.zeros(outcome.limits.shape, dtype=bool)
    active[cell.task.traffic.windows, cell.task.traffic.users] = True
    spent, limits = outcome.spent[active], outcome.limits[active]
    ratio = spent / np.maximum(limits, _CENT_OF_A_NANO)
    learning = None
    if run.learning is not None and run.learning_task is not None:
        learning = float(run.learning.rewards.mean()) / _reference(run.learning_task)
    return Measured(
        split=cell.split,
        quality_share=float(outcome.rewards.mean()) / reference,
        vs_static_mix=float(static_gain.mean()),
        vs_label_lookup=None if lookup_gain is None else float(lookup_gain.mean()),
        learning_quality_share=learning,
        budget_used_share=float(outcome.spent.sum() / outcome.limits.sum()),
        rejected_share=float(outcome.rejected.mean()),
        users_over_share=float((spent > limits + _CENT_OF_A_NANO + 5e-10).mean()),
        max_overspend=float(ratio.max()),
        decisions_per_s=_speed([outcome] if run.learning is None else [run.learning, outcome]),
        rows=outcome.rows.astype(np.float64),
        static_gain=static_gain,
        lookup_gain=lookup_gain,
    )


def _reference(task: Task) -> float:
    """The best model's mean reward on the rounds."""
    return max(float(task.rewards[:, task.best].mean()), 1e-12)


def _speed(outcomes: Sequence[Outcome]) -> float | None:
    seconds = sum(outcome.seconds for outcome in outcomes)
    return sum(len(outcome.rows) for outcome in outcomes) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class Summary:
    """One policy under one budget: means over splits and seeds, and standard errors. None where it does not apply."""

    quality_share: float
    quality_share_std: float | None
    vs_static_mix: float
    vs_static_mix_se: float | None
    vs_label_lookup: float | None
    vs_label_lookup_se: float | None
    learning_quality_share: float | None
    budget_used_share: float
    rejected_share: float
    users_over_share: float
    max_overspend: float
    decisions_per_s: float | None


def summarise(runs: Sequence[Measured], splits: Sequence[Split]) -> Summary:
    """All runs of one policy under one budget. Overspend is the worst, everything else the mean."""
    quality = _by_split([(r.split, r.quality_share) for r in runs])
    if len(splits) == 1:
        quality = np.array([r.quality_share for r in runs])
    lookups = [(r.split, r.vs_label_lookup) for r in runs if r.vs_label_lookup is not None]
    return Summary(
        quality_share=float(np.mean([r.quality_share for r in runs])),
        quality_share_std=float(quality.std(ddof=1)) if len(quality) > 1 else None,
        vs_static_mix=float(np.mean([r.vs_static_mix for r in runs])),
        vs_static_mix_se=_error(
            [(r.split, r.vs_static_mix) for r in runs], [(r.rows, r.static_gain) for r in runs], splits
        ),
        vs_label_lookup=_mean([value for _, value in lookups]),
        vs_label_lookup_se=_error(
            lookups, [(r.rows, r.lookup_gain) for r in runs if r.lookup_gain is not None], splits
        ),
        learning_quality_share=_mean([r.learning_quality_share for r in runs]),
        budget_used_share=float(np.mean([r.budget_used_share for r in runs])),
        rejected_share=float(np.mean([r.rejected_share for r in runs])),
        users_over_share=float(np.mean([r.users_over_share for r in runs])),
        max_overspend=max(r.max_overspend for r in runs),
        decisions_per_s=_mean([r.decisions_per_s for r in runs]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _by_split(values: Sequence[tuple[int, float]]) -> FloatArray:
    numbers = np.array([split for split, _ in values])
    figures = np.array([value for _, value in values])
    return np.array([figures[numbers == split].mean() for split in np.unique(numbers)])


def _error(
    values: Sequence[tuple[int, float]], gains: Sequence[tuple[FloatArray, FloatArray]], splits: Sequence[Split]
) -> float | None:
    if not values:
        return None
    if len(splits) == 1:
        return _bootstrap(gains)
    means = _by_split(values)
    # Random splits share rows, so their spread alone is too small (Nadeau and Bengio 2003, resampled t-test).
    overlap = float(np.mean([len(split.test) / len(split.train) for split in splits]))
    return math.sqrt((1 / len(means) + overlap) * float(means.var(ddof=1)))


def _bootstrap(gains: Sequence[tuple[FloatArray, FloatArray]]) -> float:
    """Standard error of the mean gain when the table's rows are drawn again, seeds averaged by row."""
    rows = np.concatenate([row for row, _ in gains])
    _, index = np.unique(rows, return_inverse=True)
    weight = np.bincount(index).astype(np.float64)
    total = np.bincount(index, weights=np.concatenate([gain for _, gain in gains]))
    draws = np.random.default_rng(0).integers(0, len(weight), (BOOTSTRAPS, len(weight)))
    return float((total[draws].sum(axis=1) / weight[draws].sum(axis=1)).std())
