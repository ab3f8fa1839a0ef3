"""Open decisions: counted while they are open, weighted by how often rewards come."""

from __future__ import annotations

import numpy as np

from worker.core.outstanding import LONGEST_S, MOST, Outstanding

X = np.array([0.6, 0.8, 1.0])
Y = np.array([0.0, -1.0, 1.0])


def test_open_contexts_add_up_by_model() -> None:
    """Each model has the sum of its own open decisions."""
    found = Outstanding(3)
    found.add("m", X, 0.0)
    found.add("m", Y, 1.0)
    found.add("other", Y, 1.0)
    np.testing.assert_allclose(found.sums()["m"], np.outer(X, X) + np.outer(Y, Y))
    np.testing.assert_allclose(found.sums()["other"], np.outer(Y, Y))


def test_reward_closes_the_oldest() -> None:
    """A reward ends one open decision of its model; without one left nothing is counted below zero."""
    found = Outstanding(3)
    found.add("m", X, 0.0)
    found.add("m", Y, 1.0)
    found.rewarded("m")
    np.testing.assert_allclose(found.sums()["m"], np.outer(Y, Y), atol=1e-12)
    found.rewarded("m", 5)
    found.rewarded("never seen")
    assert found.sums() == {}


def test_ten_minutes_are_the_end() -> None:
    """An unrated decision stops counting after the longest wait, not before."""
    found = Outstanding(3)
    found.add("m", X, 0.0)
    found.add("m", Y, LONGEST_S - 1)
    np.testing.assert_allclose(found.sums()["m"], np.outer(X, X) + np.outer(Y, Y))
    found.add("m", Y, LONGEST_S + 1)
    np.testing.assert_allclose(found.sums()["m"] / found.weight, 2 * np.outer(Y, Y), atol=1e-12)


def test_weight_is_the_share_that_gets_a_reward() -> None:
    """Where three of four decisions are never rated in time, an open one weighs about a quarter."""
    found = Outstanding(3)
    assert found.weight == 1.0
    for batch in range(500):
        for _ in range(4):
            found.add("m", X, batch * 2 * LONGEST_S)
        found.rewarded("m")
    assert abs(found.weight - 0.25) < 0.02


def test_totals_teach_what_is_new_since_the_last_ones() -> None:
    """Rewards learned before this worker began close nothing; later ones do, wherever they were learned."""
    found = Outstanding(3)
    found.add("m", X, 0.0)
    found.add("m", Y, 1.0)
    found.learned("m", 900)
    np.testing.assert_allclose(found.sums()["m"], np.outer(X, X) + np.outer(Y, Y))
    found.learned("m", 901)
    np.testing.assert_allclose(found.sums()["m"], np.outer(Y, Y), atol=1e-12)


def test_memory_of_an_arm_is_bounded() -> None:
    """However many decisions wait for feedback, only so many contexts are kept."""
    found = Outstanding(1)
    for _ in range(MOST + 300):
        found.add("m", np.ones(1), 0.0)
    np.testing.assert_allclose(found.sums()["m"] / found.weight, [[MOST]])
