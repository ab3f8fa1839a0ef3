"""Traffic: rows in an order, by users, in windows."""

import numpy as np
import pytest

from worker.evaluate.traffic import Crowd, crowd_traffic, in_order

ROWS = np.arange(100, 160)


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_one_user_asks_every_row_once() -> None:
    """Without options the test rows come once each, in a random order, and their number is known."""
    traffic = crowd_traffic(ROWS, Crowd(), generator())
    assert sorted(traffic.rows.tolist()) == ROWS.tolist()
    assert traffic.rows.tolist() != ROWS.tolist()
    assert traffic.left.tolist() == list(range(60, 0, -1))
    assert traffic.limits_usd(0.5).tolist() == [30.0]


def test_the_order_belongs_to_the_seed() -> None:
    """The same generator state gives the same order, another one another."""
    assert in_order(ROWS, generator()).rows.tolist() == in_order(ROWS, generator()).rows.tolist()
    assert in_order(ROWS, generator()).rows.tolist() != in_order(ROWS, np.random.default_rng(8)).rows.tolist()


def test_a_learned_horizon_hides_what_is_left() -> None:
    """Then nobody is told how many queries still come."""
    traffic = crowd_traffic(ROWS, Crowd(horizon="learned"), generator())
    assert np.isnan(traffic.left).all()


class TestCrowd:
    """Many users over several windows."""

    crowd = Crowd(users=20, queries=2_000, windows=3)

    def test_has_so_many_queries_a_window(self) -> None:
        """Each window has its queries, in the order of their times."""
        traffic = crowd_traffic(ROWS, self.crowd, generator())
        assert np.bincount(traffic.windows).tolist() == [2_000] * 3
        for window in range(3):
            assert (np.diff(traffic.elapsed[traffic.windows == window]) >= 0).all()
        assert set(traffic.rows.tolist()) <= set(ROWS.tolist())

    def test_rates_are_zipf(self) -> None:
        """The first user asks about twice as often as the second and three times as often as the third."""
        counts = np.bincount(crowd_traffic(ROWS, self.crowd, generator()).users)
        assert counts[0] / counts[1] == pytest.approx(2, rel=0.15)
        assert counts[0] / counts[2] == pytest.approx(3, rel=0.15)

    def test_left_counts_a_users_own_queries(self) -> None:
        """A user's first query of a window sees all of them to come, the last only itself."""
        traffic = crowd_traffic(ROWS, self.crowd, generator())
        mine = (traffic.users == 0) & (traffic.windows == 1)
        assert traffic.left[mine].tolist() == list(range(int(mine.sum()), 0, -1))

    def test_budgets_follow_the_expected_queries(self) -> None:
        """A budget is the allowed mean cost times the queries that are expected of the user."""
        traffic = crowd_traffic(ROWS, self.crowd, generator())
        assert traffic.limits_usd(0.01).sum() == pytest.approx(0.01 * 2_000)
        assert traffic.limits_usd(0.01)[0] == pytest.approx(2 * traffic.limits_usd(0.01)[1])

    def test_spread_makes_budgets_unequal(self) -> None:
        """With a spread some users are poor and some rich, at the same mean."""
        factor = crowd_traffic(ROWS, Crowd(users=5_000, queries=10, budget_spread=0.5), generator()).factor
        assert factor.mean() == pytest.approx(1.0, rel=0.05)
        assert np.log(factor).std() == pytest.approx(0.5, rel=0.05)
