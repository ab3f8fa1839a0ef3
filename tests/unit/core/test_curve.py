"""The price curve against a plain search at every price."""

import numpy as np
import pytest

from worker.core.policies.curve import STEPS, solve


@pytest.mark.parametrize("arms", [1, 2, 3, 11])
def test_equals_an_argmax_at_every_price(arms: int) -> None:
    """Mean cost and mean reward at each price are those of argmax score − λ·cost."""
    generator = np.random.default_rng(arms)
    score, rewards = generator.random((200, arms)), generator.random((200, arms))
    costs = 1e-3 * np.exp(1.5 * generator.standard_normal((200, arms)))
    curve = solve(score, costs, rewards)
    assert len(curve.prices) == STEPS + 1
    for price, cost, reward in zip(*curve, strict=True):
        chosen = (score - price * costs).argmax(axis=1)
        assert cost == pytest.approx(costs[np.arange(200), chosen].mean(), rel=1e-9)
        assert reward == pytest.approx(rewards[np.arange(200), chosen].mean(), rel=1e-9)


def test_cost_never_rises_with_the_price() -> None:
    """The mean cost is monotone, also where arms cost the same or nothing."""
    generator = np.random.default_rng(0)
    costs = generator.choice([0.0, 0.001, 0.01], (300, 6))
    curve = solve(generator.random((300, 6)), costs, np.ones((300, 6)))
    assert (np.diff(curve.costs) <= 1e-15).all()
    assert curve.rewards == pytest.approx(np.ones(STEPS + 1))


def test_reaches_from_the_best_to_the_cheapest() -> None:
    """At price 0 every query takes its best score, at the last one its cheapest arm."""
    generator = np.random.default_rng(1)
    score, costs = generator.random((100, 4)), 0.01 * (1 + generator.random((100, 4)))
    curve = solve(score, costs, score)
    assert curve.rewards[0] == pytest.approx(score.max(axis=1).mean())
    assert curve.costs[-1] == pytest.approx(costs.min(axis=1).mean(), rel=0.01)


def test_free_arms_only() -> None:
    """Where nothing costs anything the curve is flat and finite."""
    curve = solve(np.array([[0.2, 0.4]]), np.zeros((1, 2)), np.array([[0.2, 0.4]]))
    assert np.isfinite(curve.prices).all()
    assert set(curve.costs.tolist()) == {0.0}
