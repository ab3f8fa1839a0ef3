"""Figures of runs, and their means and errors over splits."""

import numpy as np
import pytest

from worker.core.verdict import FloatArray
from worker.evaluate.baselines import Task, always, static_mix
from worker.evaluate.experiment import Cell, Run
from worker.evaluate.measure import Measured, measure, summarise
from worker.evaluate.replay import Outcome
from worker.evaluate.table import Split, Table
from worker.evaluate.traffic import in_order

ROWS = np.arange(200)


def task(allowed_usd: float = 0.5) -> Task:
    generator = np.random.default_rng(0)
    rewards = np.column_stack([generator.random(200) * 0.5, 0.5 + generator.random(200) * 0.5])
    costs = np.tile([0.1, 1.0], (200, 1))
    table = Table("t", [str(n) for n in ROWS], [None] * 200, None, ("a", "b"), rewards, costs, None)
    return Task(table, in_order(ROWS, generator), ROWS, 1, allowed_usd)


def measured(outcome: Outcome, asked: Task, split: int = 0) -> Measured:
    return measure(Run("p", Cell(0.5, split, 0, asked, static_mix(asked), None), outcome))


def splits(count: int) -> list[Split]:
    return [Split(ROWS[:140], ROWS[140:])] * count


def test_the_best_model_has_a_quality_of_one() -> None:
    """Always the best is the measure of all things, and twice over a budget of half."""
    asked = task()
    figures = measured(always(asked, 1), asked)
    assert figures.quality_share == pytest.approx(1.0)
    assert figures.budget_used_share == pytest.approx(2.0)
    assert figures.users_over_share == 1.0
    assert figures.max_overspend == pytest.approx(2.0)
    assert figures.vs_label_lookup is None


def test_the_static_mix_gains_nothing_over_itself() -> None:
    """The paired difference with itself is zero in every row."""
    asked = task()
    figures = measured(static_mix(asked), asked)
    assert figures.vs_static_mix == 0
    assert figures.users_over_share == 0


def test_spending_exactly_the_budget_is_not_over_it() -> None:
    """A sum of floats that equals the budget to a nano-dollar counts as kept."""
    asked = task(allowed_usd=0.1)
    assert measured(always(asked, 0), asked).users_over_share == 0


def test_one_split_bootstraps_rows() -> None:
    """The error of a paired difference over one split is close to that of a mean of its rows."""
    asked = task()
    figures = measured(always(asked, 1), asked)
    summary = summarise([figures], splits(1))
    expected = figures.static_gain.std() / np.sqrt(len(ROWS))
    assert summary.vs_static_mix_se == pytest.approx(expected, rel=0.15)


def test_seeds_do_not_shrink_the_bootstrap() -> None:
    """Three orders of the same rows are not three times the rows."""
    asked = task()
    figures = measured(always(asked, 1), asked)
    one, three = summarise([figures], splits(1)), summarise([figures] * 3, splits(1))
    assert three.vs_static_mix_se == pytest.approx(one.vs_static_mix_se)


def test_splits_give_a_corrected_error() -> None:
    """Over random splits the spread of the means is widened by the share of rows that they have in common."""
    asked = task()
    base = measured(always(asked, 1), asked)
    gains: FloatArray = np.array([0.01, 0.02, 0.03, 0.04])
    runs = [
        Measured(
            **{
                **{name: getattr(base, name) for name in Measured.__dataclass_fields__},
                "split": n,
                "vs_static_mix": float(g),
            }
        )
        for n, g in enumerate(gains)
    ]
    summary = summarise(runs, splits(4))
    assert summary.vs_static_mix == pytest.approx(0.025)
    assert summary.vs_static_mix_se == pytest.approx(np.sqrt((1 / 4 + 60 / 140) * gains.var(ddof=1)))
