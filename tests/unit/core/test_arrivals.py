"""Arrival rates: how many queries a user still sends."""

import numpy as np
import pytest

from worker.core.arrivals import Demand, Profile, carry
from worker.core.verdict import Account, History


def test_carry_decays_counts_and_windows() -> None:
    """A window adds its queries and one window of exposure, then both decay by a fifth."""
    assert carry(History(), 10) == History(8.0, 0.8)
    assert carry(History(8.0, 0.8), 5) == History(0.8 * 13, 0.8 * 1.8)


def test_a_steady_user_keeps_a_steady_rate() -> None:
    """Carried over many windows, count and exposure keep the ratio of queries to windows."""
    history = History()
    for _ in range(50):
        history = carry(history, 30)
    assert history.queries / history.exposure == pytest.approx(30)


class TestProfile:
    """F, the share of a window's queries that has come."""

    def test_is_flat_before_anything_is_known(self) -> None:
        """Without a closed window the share of queries is the share of time."""
        profile = Profile()
        for elapsed in (0.0, 0.03, 0.5, 0.999, 1.0):
            assert profile.share(elapsed) == pytest.approx(elapsed)

    def test_learns_when_queries_come(self) -> None:
        """After a window whose queries came in its first half, most are expected there, a third stays flat."""
        profile = Profile()
        for elapsed in np.linspace(0, 0.499, 400):
            profile.note(float(elapsed))
        profile.close()
        assert profile.share(0.5) == pytest.approx((1 + 0.5 * 0.5) / 1.5, abs=0.01)
        assert profile.share(1.0) == pytest.approx(1.0)

    def test_rises_from_zero_to_one(self) -> None:
        """F never falls, begins at 0 and ends at 1, also outside the window's bounds."""
        profile = Profile()
        for elapsed in np.random.default_rng(0).beta(2, 5, 500):
            profile.note(float(elapsed) * 0.99)
        profile.note(0.0)
        profile.close()
        shares = [profile.share(e) for e in np.linspace(-0.1, 1.1, 200)]
        assert shares[0] == 0
        assert shares[-1] == pytest.approx(1.0)
        assert np.all(np.diff(shares) >= 0)

    def test_a_window_whose_beginning_was_missed_teaches_nothing(self) -> None:
        """A worker that starts at noon does not learn that mornings are empty."""
        profile = Profile()
        for elapsed in np.linspace(0.5, 0.99, 100):
            profile.note(float(elapsed))
        profile.close()
        assert profile.share(0.5) == pytest.approx(0.5)


class TestDemand:
    """What is left of a user's window."""

    def test_takes_a_known_number_as_it_is(self) -> None:
        """Where the number of queries is known nothing is estimated, and this query always counts."""
        assert Demand().left(Account(1, left=17.0)) == 17
        assert Demand().left(Account(1, left=0.0)) == 1

    def test_starts_from_the_usual_rate(self) -> None:
        """Of an unknown user fifty queries a window are expected."""
        assert Demand().left(Account(1, queries=0, elapsed=0.0)) == pytest.approx(51)

    def test_nothing_but_this_query_is_left_at_the_end(self) -> None:
        """At the end of the window only the query in hand remains."""
        assert Demand().left(Account(1, queries=500, elapsed=1.0)) == pytest.approx(1)

    def test_history_outweighs_the_population(self) -> None:
        """A user with a long history of 400 queries a window is expected to send about as many again."""
        history = History()
        for _ in range(20):
            history = carry(history, 400)
        left = Demand().left(Account(1, queries=0, elapsed=0.0, history=history))
        assert left == pytest.approx(401, rel=0.05)

    def test_the_current_window_corrects_the_past(self) -> None:
        """A user who sends ten times as much as usual is soon expected to go on so."""
        history = carry(carry(History(), 20), 20)
        left = Demand().left(Account(1, queries=100, elapsed=0.5, history=history))
        assert left > 1.5 * 20 * 0.5

    def test_learns_the_mean_rate_of_all_users(self) -> None:
        """After windows of users with five queries each, a newcomer is expected to send about five."""
        demand = Demand()
        for _ in range(5):
            for query in range(5):
                for _user in range(40):
                    demand.note(Account(1, queries=query, elapsed=query / 5))
        assert demand.mean_rate(1.0) == pytest.approx(5, rel=0.2)
