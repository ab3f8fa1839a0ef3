"""Open decisions of one worker, by model."""

import numpy as np
import pytest

from worker.core.outstanding import LONGEST_S, MOST, Outstanding

X = np.array([1.0, 2.0])


def test_sums_are_those_of_the_open_decisions() -> None:
    """A decision adds its ψψᵀ, its reward takes it away again; another model's stays."""
    outstanding = Outstanding(2)
    outstanding.add("a", X, 0.0)
    outstanding.add("a", 2 * X, 0.0)
    outstanding.add("b", X, 0.0)
    np.testing.assert_allclose(outstanding.sums()["a"], 5 * np.outer(X, X))
    outstanding.rewarded("a")
    np.testing.assert_allclose(outstanding.sums()["a"], 4 * np.outer(X, X))
    outstanding.rewarded("a")
    assert set(outstanding.sums()) == {"b"}


def test_totals_tell_how_many_rewards_came() -> None:
    """Only what is new since the last look closes decisions."""
    outstanding = Outstanding(2)
    outstanding.learned("a", 100)
    outstanding.add("a", X, 0.0)
    outstanding.learned("a", 100)
    assert "a" in outstanding.sums()
    outstanding.learned("a", 101)
    assert outstanding.sums() == {}


def test_rewards_of_other_workers_do_no_harm() -> None:
    """More rewards than open decisions, or of an unknown model, leave nothing open and nothing broken."""
    outstanding = Outstanding(2)
    outstanding.add("a", X, 0.0)
    outstanding.rewarded("a", 7)
    outstanding.rewarded("z")
    assert outstanding.sums() == {}


def test_what_is_too_late_counts_as_never() -> None:
    """After ten minutes a decision is dropped, and the weight of the others falls."""
    outstanding = Outstanding(2)
    assert outstanding.weight == 1.0
    for second in range(20):
        outstanding.add("a", X, float(second))
    outstanding.add("a", X, 2 * LONGEST_S)
    assert outstanding.weight == pytest.approx(0.5)
    np.testing.assert_allclose(outstanding.sums()["a"], 0.5 * np.outer(X, X))


def test_memory_is_bounded() -> None:
    """However many decisions stay open, only the last few thousand of a model are kept."""
    outstanding = Outstanding(2)
    for _ in range(MOST + 10):
        outstanding.add("a", X, 0.0)
    np.testing.assert_allclose(outstanding.sums()["a"] / outstanding.weight, MOST * np.outer(X, X))


def test_a_share_of_the_traffic_stands_for_all_of_it() -> None:
    """A worker that serves a quarter counts each of its open decisions four times."""
    outstanding = Outstanding(2)
    outstanding.share = 0.25
    outstanding.add("a", X, 0.0)
    np.testing.assert_allclose(outstanding.sums()["a"], 4 * np.outer(X, X))


def test_of_everybodys_rewards_a_share_closes_own_decisions() -> None:
    """At half of the traffic two rewards close one decision, also where they come one by one."""
    outstanding = Outstanding(2)
    outstanding.share = 0.5
    for _ in range(3):
        outstanding.add("a", X, 0.0)
    outstanding.learned("a", 1)
    np.testing.assert_allclose(outstanding.sums()["a"], 6 * np.outer(X, X))
    outstanding.learned("a", 2)
    np.testing.assert_allclose(outstanding.sums()["a"], 4 * np.outer(X, X))
    outstanding.learned("a", 6)
    assert outstanding.sums() == {}


@pytest.mark.parametrize("read_every", [1, 3, 1_000])
def test_when_the_sums_are_read_changes_nothing(read_every: int) -> None:
    """Decisions that are opened and answered between two looks count as any others."""
    generator, outstanding = np.random.default_rng(0), Outstanding(2)
    still_open: list[np.ndarray] = []
    for step in range(200):
        if generator.random() < 0.6:
            still_open.append(generator.standard_normal(2))
            outstanding.add("a", still_open[-1], 0.0)
        elif still_open:
            outstanding.rewarded("a")
            still_open.pop(0)
        if step % read_every == 0:
            outstanding.sums()
    X = np.array(still_open)
    np.testing.assert_allclose(outstanding.sums()["a"], X.T @ X, rtol=1e-9, atol=1e-9)
