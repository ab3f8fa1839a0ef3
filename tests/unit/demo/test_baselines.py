from __future__ import annotations

import numpy as np
import pytest

from worker.core.verdict import FloatArray
from worker.demo import baselines
from worker.demo.data import Dataset

ONE_USER = np.zeros(4, dtype=np.int64)
LARGE_FIRST = np.array([1, 0])
PRICE = np.array([1.0, 5.0])


def _scores(tiny: Dataset) -> tuple[FloatArray, FloatArray]:
    return tiny.stream.rewards, tiny.stream.costs


def test_rejected_query_earns_and_costs_nothing(tiny: Dataset) -> None:
    """A rejected query counts with reward 0 and cost 0, and is counted."""
    outcome = baselines.played("x", np.array([1, baselines.REJECTED, 0, 1]), tiny.stream.rewards, tiny.stream.costs)
    assert outcome.reward.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert outcome.cost.tolist() == [4.0, 0.0, 1.0, 6.0]
    assert outcome.rejected == 1


def test_gateway_takes_the_best_then_what_is_affordable_then_nothing(tiny: Dataset) -> None:
    """With 6 USD the gateway buys the large model once, then the small one twice, and turns the last query away."""
    outcome = baselines.gateway(
        tiny.stream.rewards, tiny.stream.costs, user=ONE_USER, limits=np.array([6.0]), order=LARGE_FIRST, price=PRICE
    )
    assert outcome.cost.tolist() == [4.0, 1.0, 1.0, 0.0]
    assert outcome.reward.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert outcome.rejected == 1


def test_gateway_keeps_a_budget_for_each_user(tiny: Dataset) -> None:
    """One user's spending leaves the other user's money alone."""
    users = np.array([0, 1, 0, 1])
    limits = np.array([5.0, 1.0])
    outcome = baselines.gateway(
        tiny.stream.rewards, tiny.stream.costs, user=users, limits=limits, order=LARGE_FIRST, price=PRICE
    )
    assert outcome.cost.tolist() == [4.0, 1.0, 1.0, 0.0]


def test_static_mix_meets_the_spend_exactly(tiny: Dataset) -> None:
    """For 12 USD on four queries half of them go to the large model: .625 on average."""
    outcome = baselines.static_mix(tiny.stream.rewards, tiny.stream.costs, 12.0)
    assert outcome.cost.sum() == pytest.approx(12.0)
    assert outcome.reward.mean() == pytest.approx(0.625)
    assert outcome.rejected == 0


def test_static_mix_below_the_cheapest_turns_queries_away(tiny: Dataset) -> None:
    """For half of what the cheapest model costs, half of the queries get nothing."""
    outcome = baselines.static_mix(tiny.stream.rewards, tiny.stream.costs, 2.0)
    assert outcome.cost.sum() == pytest.approx(2.0)
    assert outcome.reward.mean() == pytest.approx(0.375 / 2)
    assert outcome.rejected == 2


def test_static_mix_does_not_pay_for_a_worse_model(tiny: Dataset) -> None:
    """Money that buys nothing better is left alone: the mix never takes a dearer model that earns less."""
    rewards = np.array([[0.9, 0.5]] * 4)
    outcome = baselines.static_mix(rewards, tiny.stream.costs, 12.0)
    assert outcome.reward.mean() == pytest.approx(0.9)
    assert outcome.cost.sum() == pytest.approx(4.0)


def test_random_is_the_same_on_every_run(tiny: Dataset) -> None:
    """The random baseline depends on its seed alone."""
    first, again = (baselines.at_random(tiny.stream.rewards, tiny.stream.costs, 7).cost.tolist() for _ in range(2))
    assert first == again


def test_error_of_a_ratio_agrees_with_the_spread_of_repeated_samples() -> None:
    """The bootstrap error of a ratio is near the ratio's standard deviation over fresh samples."""
    random = np.random.default_rng(1)
    samples = random.normal(0.8, 0.2, (400, 200))
    expected = (samples.mean(axis=1) / 1.0).std(ddof=1)
    measured = baselines.ratio_error(samples[0], np.ones(200), seed=3)
    assert measured == pytest.approx(expected, rel=0.25)


def test_error_against_oneself_is_nothing() -> None:
    """The bootstrap is paired: what is compared with itself has no error."""
    reward = np.array([0.1, 0.9, 0.4])
    assert baselines.ratio_error(reward, reward, seed=0) == 0.0


def test_static_mix_per_user_spends_nobody_elses_money(tiny: Dataset) -> None:
    """A user with 10 USD buys the large model twice, the one with 1 USD half of the small model's answers."""
    user, spends = np.array([0, 0, 1, 1]), np.array([10.0, 1.0])
    outcome = baselines.static_mix_by_user(*_scores(tiny), user, spends)
    assert outcome.reward.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.25])
    assert outcome.rejected == 1


def test_static_mix_per_user_with_equal_spends_is_the_pooled_one(tiny: Dataset) -> None:
    """Where all users spend alike the two mixes agree."""
    single = baselines.static_mix(*_scores(tiny), 12.0)
    apart = baselines.static_mix_by_user(*_scores(tiny), np.array([0, 1, 0, 1]), np.array([6.0, 6.0]))
    assert apart.reward.tolist() == pytest.approx(single.reward.tolist())
