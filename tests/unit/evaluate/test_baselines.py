"""Baselines on tables whose answers can be worked out by hand."""

import numpy as np
import pytest

from worker.core.verdict import FloatArray
from worker.evaluate import baselines
from worker.evaluate.baselines import Task
from worker.evaluate.replay import REJECTED
from worker.evaluate.table import Table
from worker.evaluate.traffic import Crowd, crowd_traffic, in_order

ROWS = np.arange(100)


def task(rewards: FloatArray, costs: FloatArray, allowed_usd: float) -> Task:
    rewards, costs = np.tile(rewards, (100, 1)), np.tile(costs, (100, 1))
    table = Table("t", [f"p{n}" for n in ROWS], [None] * 100, None, ("a", "b", "c"), rewards, costs, None)
    return Task(table, in_order(ROWS, np.random.default_rng(0)), ROWS, 2, allowed_usd)


def even(allowed_usd: float) -> Task:
    """Three models at rewards .5, .6, 1 and costs 1, 2, 10."""
    return task(np.array([0.5, 0.6, 1.0]), np.array([1.0, 2.0, 10.0]), allowed_usd)


class TestStaticMix:
    """The best mix of two models in hindsight."""

    def test_mixes_the_two_on_the_hull(self) -> None:
        """At a mean of 5.5 the dearest gets 3.5 of 8 queries and the middle one, on the hull, the rest."""
        outcome = baselines.static_mix(even(5.5))
        assert outcome.rewards.mean() == pytest.approx(0.6 + 0.4 * 3.5 / 8)
        assert outcome.costs.mean() == pytest.approx(5.5)

    def test_is_the_best_model_when_money_is_plenty(self) -> None:
        """A budget above the best model's cost buys the best model."""
        assert baselines.static_mix(even(50.0)).rewards.mean() == pytest.approx(1.0)

    def test_does_nothing_for_a_part_when_money_is_short(self) -> None:
        """Below the cheapest model a part of the queries is rejected."""
        outcome = baselines.static_mix(even(0.5))
        assert outcome.costs.mean() <= 0.5 + 1e-12
        assert outcome.rewards.mean() == pytest.approx(0.25)
        assert outcome.rejected.mean() == pytest.approx(0.5)


class TestHindsight:
    """The oracle knows every score."""

    def test_rejects_what_no_budget_pays(self) -> None:
        """Below the cheapest model's cost of a single query nothing is bought."""
        outcome = baselines.oracle(task(np.ones(3), np.array([1.0, 2.0, 10.0]), 0.001))
        assert outcome.costs.sum() <= 0.1
        assert outcome.rejected.mean() == 1.0

    def test_never_exceeds_the_budget_and_beats_the_mix(self) -> None:
        """With different rows the oracle buys where it pays, within the budget."""
        generator = np.random.default_rng(0)
        rewards, costs = generator.random((100, 3)), generator.random((100, 3)) + np.array([0.1, 1.0, 5.0])
        table = Table("t", [str(n) for n in ROWS], [None] * 100, None, ("a", "b", "c"), rewards, costs, None)
        for allowed in (0.3, 1.0, 3.0):
            asked = Task(table, in_order(ROWS, generator), ROWS, 2, allowed)
            outcome = baselines.oracle(asked)
            assert outcome.costs.sum() <= asked.limits.sum()
            assert outcome.rewards.mean() > baselines.static_mix(asked).rewards.mean()

    def test_takes_the_best_of_every_row_when_it_can(self) -> None:
        """Without a binding budget it is the row-wise maximum."""
        assert baselines.oracle(even(100.0)).rewards.mean() == pytest.approx(1.0)


class TestOneAfterTheOther:
    """Rules that look at what is left."""

    def test_hard_cap_buys_the_best_until_the_money_is_gone(self) -> None:
        """At a quarter of the best model's cost a quarter of the queries is answered."""
        outcome = baselines.hard_cap(even(2.5))
        assert outcome.choice is not None
        assert outcome.choice[:25].tolist() == [2] * 25
        assert set(outcome.choice[25:].tolist()) == {REJECTED}
        assert outcome.rewards.mean() == pytest.approx(0.25)

    def test_gateway_keeps_a_fallback_affordable(self) -> None:
        """The best model first, the cheapest for the rest, nobody rejected."""
        outcome = baselines.gateway(even(2.5))
        assert outcome.choice is not None
        assert outcome.choice[0] == 2
        assert (outcome.choice == 0).sum() > 70
        assert outcome.rejected.sum() == 0
        assert outcome.spent.sum() <= 250

    def test_every_user_has_a_purse(self) -> None:
        """One user's spending does not touch another's budget, window by window."""
        table = even(2.5).table
        traffic = crowd_traffic(ROWS, Crowd(users=3, queries=300, windows=2), np.random.default_rng(0))
        outcome = baselines.hard_cap(Task(table, traffic, ROWS, 2, 2.5))
        assert outcome.spent.shape == (2, 3)
        assert (outcome.spent <= outcome.limits).all()
        assert (outcome.spent > 0.7 * outcome.limits).all()


def test_random_is_the_mean_of_all() -> None:
    """Uniform choice, in expectation."""
    outcome = baselines.random(even(1.0))
    assert outcome.rewards.mean() == pytest.approx(0.7)
    assert outcome.costs.mean() == pytest.approx(13 / 3)


def test_best_and_cheapest_ignore_the_budget() -> None:
    """Single models, whatever they cost."""
    assert baselines.best(even(0.1)).costs.mean() == 10
    assert baselines.cheapest(even(0.1)).costs.mean() == 1
