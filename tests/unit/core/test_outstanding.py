"""Open decisions: counted while they are open, weighted by how often rewards come."""

from __future__ import annotations

import numpy as np

from worker.core.outstanding import HORIZON_S, Outstanding

X = np.array([0.6, 0.8, 1.0])
Y = np.array([0.0, -1.0, 1.0])


def test_open_contexts_add_up_by_model() -> None:
    """Each model has the sum of its own open decisions."""
    found = Outstanding(3)
    found.opened("a", "m", X, 0.0)
    found.opened("b", "m", Y, 1.0)
    found.opened("c", "other", Y, 1.0)
    np.testing.assert_allclose(found.sums("m"), np.outer(X, X) + np.outer(Y, Y))
    np.testing.assert_allclose(found.sums("other"), np.outer(Y, Y))
    assert len(found) == 3


def test_repeated_decision_counts_once() -> None:
    """The same query again is the same open decision."""
    found = Outstanding(3)
    found.opened("a", "m", X, 0.0)
    found.opened("a", "m", X, 5.0)
    np.testing.assert_allclose(found.sums("m"), np.outer(X, X))


def test_reward_closes_once() -> None:
    """A rated decision is open no more, and a second rating finds nothing."""
    found = Outstanding(3)
    found.opened("a", "m", X, 0.0)
    assert found.rewarded("a")
    assert not found.rewarded("a")
    np.testing.assert_array_equal(found.sums("m"), np.zeros((3, 3)))


def test_ten_minutes_are_the_end() -> None:
    """An unrated decision stops counting after the horizon, not before."""
    found = Outstanding(3)
    found.opened("a", "m", X, 0.0)
    found.opened("b", "m", Y, 10.0)
    found.expire(HORIZON_S - 1)
    assert len(found) == 2
    found.expire(HORIZON_S + 5)
    assert len(found) == 1
    assert not found.rewarded("a")
    np.testing.assert_allclose(found.sums("m") / found.weight("m"), np.outer(Y, Y))


def test_weight_is_the_share_that_gets_a_reward() -> None:
    """Where three of four decisions are never rated, an open one weighs about a quarter."""
    found = Outstanding(3)
    assert found.weight("m") == 1.0
    for index in range(400):
        found.opened(str(index), "m", X, float(index))
        if index % 4 == 0:
            found.rewarded(str(index))
    found.expire(10_000.0)
    assert abs(found.weight("m") - 0.25) < 0.02
    found.opened("new", "m", X, 10_000.0)
    np.testing.assert_allclose(found.sums("m"), found.weight("m") * np.outer(X, X))


def test_other_workers_decisions_are_taken_to_be_alike() -> None:
    """A worker that sees half of the traffic counts its open decisions twice."""
    found = Outstanding(3, share=0.5)
    found.opened("a", "m", X, 0.0)
    np.testing.assert_allclose(found.sums("m"), 2 * np.outer(X, X))
