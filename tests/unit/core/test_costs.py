"""Cost models: prices, regression on logs, bias, quantile."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.costs import CostPort, LogCost, LogRidge, PricedTokens, log_costs
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

D = 4
X0 = np.array([0.0, 0.0, 0.0, 1.0])
CHEAP = Arm("cheap", 0.1, 0.4, expected_output_tokens=200)
DEAR = Arm("dear", 2.0, 10.0, request_usd=0.001, expected_output_tokens=500)


def contexts(n: int, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=(n, D - 1)), np.ones(n)])


def nothing() -> list[Moments]:
    return [Moments.zeros(D), Moments.zeros(D)]


class TestLogRidge:
    def test_rank_one_equals_the_solve(self) -> None:
        """Coefficients and spread are the same learned one by one or from sums."""
        X = contexts(80)
        y = X @ np.array([0.5, -0.2, 0.1, 6.0]) + np.random.default_rng(1).normal(size=80) * 0.3
        solved, learned = LogRidge(np.array([50.0, 90.0]), D), LogRidge(np.array([50.0, 90.0]), D)
        solved.refresh([Moments.of(X, y), Moments.zeros(D)])
        for x, outcome in zip(X, y, strict=True):
            learned.learn(0, x, float(outcome))
        np.testing.assert_allclose(learned.theta, solved.theta, rtol=1e-9)
        np.testing.assert_allclose(learned.spread, solved.spread, rtol=1e-9)

    def test_spread_is_what_the_regression_misses(self) -> None:
        """With data the spread is the residual deviation of the logs."""
        X = contexts(4000)
        y = X @ np.array([0.5, -0.2, 0.1, 6.0]) + np.random.default_rng(1).normal(size=4000) * 0.3
        ridge = LogRidge(np.array([400.0]), D)
        ridge.refresh([Moments.of(X, y)])
        assert ridge.spread[0] == pytest.approx(0.3, rel=0.03)

    def test_refresh_refuses_another_number_of_arms(self) -> None:
        """Sums that do not fit the arms are an error, not a shifted assignment."""
        with pytest.raises(ValueError, match="1 sums for 2 arms"):
            LogRidge(np.ones(2), D).refresh([Moments.zeros(D)])


class TestPricedTokens:
    def test_without_data_it_is_the_price_list(self) -> None:
        """Before feedback a call costs request + input + expected output tokens at list price."""
        found = PricedTokens([CHEAP, DEAR], D).estimate(X0, 1000.0)
        np.testing.assert_allclose(found.expected, [1000 * 1e-7 + 200 * 4e-7, 0.001 + 1000 * 2e-6 + 500 * 1e-5])
        np.testing.assert_allclose(found.predicted, found.expected)

    def test_new_prices_act_at_once_on_learned_tokens(self) -> None:
        """What is learned is tokens, so doubling a price doubles the output part."""
        X = contexts(500)
        sums = [Moments.of(X, np.full(500, math.log(1500.0))), Moments.zeros(D)]
        before, after = PricedTokens([CHEAP, DEAR], D), PricedTokens([replace(CHEAP, output_usd_per_mtok=0.8), DEAR], D)
        for model in (before, after):
            model.refresh(sums, np.zeros(2), np.zeros(2))
        old, new = before.estimate(X0, 0.0).expected[0], after.estimate(X0, 0.0).expected[0]
        assert new == pytest.approx(2 * old)
        assert old == pytest.approx(1500 * 4e-7, rel=0.01)

    def test_tokens_depend_on_the_context(self) -> None:
        """A kind of query with long answers is estimated dearer on the arm that writes them."""
        model = PricedTokens([CHEAP, DEAR], D)
        for index in range(200):
            sign = 1.0 if index % 2 else -1.0
            model.learn(1, np.array([sign, 0, 0, 1.0]), 2000.0 if index % 2 else 50.0)
        longer = model.estimate(np.array([1.0, 0, 0, 1]), 0.0).expected
        shorter = model.estimate(np.array([-1.0, 0, 0, 1]), 0.0).expected
        assert longer[1] > 10 * shorter[1]
        assert longer[0] == shorter[0]

    def test_most_output_tokens_cap_both_figures(self) -> None:
        """No estimate lies above the arm's own limit of output tokens."""
        model = PricedTokens([Arm("short", 0.0, 1.0, expected_output_tokens=900, max_output_tokens=100)], D)
        found = model.estimate(X0, 0.0)
        np.testing.assert_allclose([found.expected[0], found.quantile[0]], [1e-4, 1e-4])
        np.testing.assert_allclose(model.mean_costs, [1e-4])

    def test_prior_tokens_win_over_the_arms_word(self) -> None:
        """Tokens that a prior implies replace the expected_output_tokens of the catalog."""
        model = PricedTokens([CHEAP, DEAR], D, output_tokens=np.array([1500.0, 500.0]))
        assert model.estimate(X0, 0.0).expected[0] == pytest.approx(1500 * 4e-7)

    def test_free_model_costs_nothing(self) -> None:
        """A model without prices is estimated at exactly 0, whatever the bias sums say."""
        model = PricedTokens([Arm("free"), CHEAP], D)
        model.settle(0, 0.0, 0.0)
        model.freeze()
        assert model.estimate(X0, 500.0).expected[0] == 0.0

    def test_absurd_context_stays_finite(self) -> None:
        """An extrapolation far outside of what was seen gives a large number, not infinity."""
        model = PricedTokens([CHEAP], D)
        for x in contexts(50):
            model.learn(0, x, float(np.exp(5 + 3 * x[0])))
        assert np.isfinite(model.estimate(np.array([1e6, 0, 0, 1.0]), 1.0).quantile).all()


class TestLogCost:
    def test_without_data_it_is_the_known_mean(self) -> None:
        """Mean costs are known from the start, like a price list."""
        found = LogCost(np.array([2e-5, 3e-3]), D).estimate(X0, 123.0)
        np.testing.assert_allclose(found.expected, [2e-5, 3e-3])

    def test_learns_dollars(self) -> None:
        """Observed costs move the estimate of their arm and of no other."""
        model = LogCost(np.array([1e-3, 1e-3]), D)
        for x in contexts(300):
            model.learn(0, x, 4e-3)
        found = model.estimate(X0, 0.0).expected
        assert found[0] == pytest.approx(4e-3, rel=0.05)
        assert found[1] == pytest.approx(1e-3)

    def test_free_calls_have_a_log(self) -> None:
        """A call that cost nothing is learned as a thousandth of the mean, singly and in sums alike."""
        model = LogCost(np.array([1e-3]), D)
        model.learn(0, X0, 0.0)
        other = LogCost(np.array([1e-3]), D)
        other.refresh([Moments.of(X0[None, :], log_costs(np.zeros(1), 1e-3))], np.zeros(1), np.zeros(1))
        np.testing.assert_allclose(model.estimate(X0, 0.0).expected, other.estimate(X0, 0.0).expected)
        assert log_costs(np.zeros(1), 1e-3)[0] == pytest.approx(math.log(1e-6))


MODELS: dict[str, Any] = {
    "priced": lambda quantile=0.95, **more: PricedTokens([CHEAP, DEAR], D, quantile, **more),
    "log": lambda quantile=0.95, **more: LogCost(np.array([1e-4, 5e-3]), D, quantile, **more),
}


@pytest.mark.parametrize("kind", MODELS)
class TestBothModels:
    def test_many_equal_single_ones(self, kind: str) -> None:
        """A batch gets what each query would get alone."""
        model: CostPort = MODELS[kind]()
        X, tokens = contexts(7), np.arange(7.0) * 100
        model.learn(0, X[0], 30.0)
        many = model.estimate_many(X, tokens)
        for index in range(7):
            for row, single in zip(many, model.estimate(X[index], float(tokens[index])), strict=True):
                np.testing.assert_allclose(row[index], single, rtol=1e-12)

    def test_bias_is_frozen_until_taken_over(self, kind: str) -> None:
        """Settled calls change no estimate before the next freeze, then by 20 calls of prior weight."""
        model: CostPort = MODELS[kind]()
        before = model.estimate(X0, 256.0)
        mean = float(model.mean_costs[1])
        for _ in range(20):
            model.settle(1, 3 * mean, mean)
        np.testing.assert_array_equal(model.estimate(X0, 256.0).expected, before.expected)
        model.freeze()
        after = model.estimate(X0, 256.0)
        np.testing.assert_allclose(np.divide(after.expected, before.expected), [1.0, 2.0])
        np.testing.assert_array_equal(after.predicted, before.predicted)

    def test_refresh_takes_the_bias_from_the_sums(self, kind: str) -> None:
        """Cost sums of all shards give the same bias as settling the calls one by one."""
        model, other = MODELS[kind](), MODELS[kind]()
        model.settle(0, 0.5, 0.25)
        model.freeze()
        other.settle(0, 9.0, 1.0)
        other.refresh(nothing(), np.array([0.5, 0.0]), np.array([0.25, 0.0]))
        np.testing.assert_allclose(other.estimate(X0, 1.0).expected, model.estimate(X0, 1.0).expected)

    def test_calibration_starts_the_bias(self, kind: str) -> None:
        """A prior's s_k corrects the estimates before any call has settled."""
        found = MODELS[kind](calibration=np.array([1.5, 1.0])).estimate(X0, 10.0)
        np.testing.assert_allclose(np.divide(found.expected, found.predicted), [1.5, 1.0])

    def test_quantile_rises_with_its_level_and_never_lies_below_the_mean(self, kind: str) -> None:
        """A stricter reservation is larger; none is smaller than what the call should cost."""
        levels = [MODELS[kind](level).estimate(X0, 10.0) for level in (0.1, 0.9, 0.99)]
        assert np.less(levels[0].quantile, levels[1].quantile).all()
        assert np.less(levels[1].quantile, levels[2].quantile).all()
        assert np.greater_equal(levels[0].quantile, levels[0].expected).all()


def test_quantile_covers_as_many_calls_as_it_says() -> None:
    """Of log-normal costs, about 95 of 100 stay below the .95 quantile."""
    rng = np.random.default_rng(2)
    X = contexts(3000)
    costs = np.exp(X @ np.array([0.3, 0.0, 0.2, -7.0]) + rng.normal(size=3000) * 0.5)
    mean = float(costs[:2000].mean())
    model = LogCost(np.array([mean]), D)
    model.refresh([Moments.of(X[:2000], log_costs(costs[:2000], mean))], np.zeros(1), np.zeros(1))
    found = model.estimate_many(X[2000:], np.zeros(1000)).quantile[:, 0]
    assert np.mean(costs[2000:] <= found) == pytest.approx(0.95, abs=0.02)
