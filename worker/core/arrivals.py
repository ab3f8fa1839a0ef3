"""How many queries a user still sends in a window: a gamma-Poisson rate over a learned day shape.

A user's rate is learned from their own counts, carried from window to window with
decay, and shrunk towards the mean rate of all users of this worker.
"""

from __future__ import annotations

import numpy as np

from worker.core.verdict import Account, History

DECAY = 0.8  # of counts, at the end of a window
BINS = 20
FLAT = 0.5  # weight of the flat profile beside the counted one
USUAL_QUERIES = 50.0  # of a user in a window, before anybody was seen
USUAL_WINDOWS = 2.0  # what that belief counts for
OWN_WINDOWS = 2.0  # pseudo-count of the population's rate in a user's own
MEMORY = 8.0  # cap of a user's pseudo-count: rates change, so a long past must not drown the present


def carry(history: History, queries: int) -> History:
    """The history that a user takes into the next window, after one with so many queries."""
    return History(DECAY * (history.queries + queries), DECAY * (history.exposure + 1.0))


class Profile:
    """F: which share of a window's queries has come when a share of its time has passed."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS)
        self._window = [0] * BINS
        self._seen_from = 1.0
        self._shape()

    def note(self, elapsed: float) -> None:
        """Count one query at this share of the window, 0 to 1."""
        self._seen_from = min(self._seen_from, elapsed)
        self._window[int(elapsed * BINS) if elapsed < 1.0 else -1] += 1

    def close(self) -> None:
        """Take the window over into the profile; one whose beginning was missed teaches nothing."""
        if self._seen_from < 1.0 / BINS:
            self._counts = DECAY * (self._counts + np.array(self._window))
            self._shape()
        self._window = [0] * BINS
        self._seen_from = 1.0

    def _shape(self) -> None:
        total = self._counts.sum()
        share = np.full(BINS, 1.0 / BINS)
        if total > 0:
            share = (self._counts / total + FLAT / BINS) / (1.0 + FLAT)
        self._cumulative: list[float] = [0.0, *np.minimum(np.cumsum(share), 1.0).tolist()]

    def share(self, elapsed: float) -> float:
        """F(elapsed), linear within a bin."""
        if elapsed >= 1.0:
            return 1.0
        position = elapsed * BINS if elapsed > 0.0 else 0.0
        index = int(position)
        before, after = self._cumulative[index], self._cumulative[index + 1]
        return before + (after - before) * (position - index)


class Demand:
    """The users of this worker together, and what one of them will still send."""

    def __init__(self) -> None:
        self.profile = Profile()
        self._past = History()
        self._users = 0
        self._queries = 0
        self._elapsed = 0.0

    def note(self, account: Account) -> None:
        """Count the query that this account is about to be charged for."""
        elapsed = account.elapsed
        if elapsed < self._elapsed - 0.5:
            self._close()
        self._elapsed = max(self._elapsed, elapsed)
        if account.queries == 0:
            self._users += 1
        self._queries += 1
        self.profile.note(elapsed)

    def _close(self) -> None:
        counted = self._past.queries + self._queries
        self._past = History(DECAY * counted, DECAY * (self._past.exposure + self._users))
        self._users = self._queries = 0
        self._elapsed = 0.0
        self.profile.close()

    def mean_rate(self, elapsed: float) -> float:
        """m: queries a user sends in a window, over the users seen."""
        counted = USUAL_WINDOWS * USUAL_QUERIES + self._past.queries + self._queries
        return counted / (USUAL_WINDOWS + self._past.exposure + self._users * elapsed)

    def left(self, account: Account) -> float:
        """Expected queries of this user until the window ends, this one included."""
        _, _, _, _, queries, elapsed, history, left = account
        if left is not None:
            return max(left, 1.0)
        passed = self.profile.share(elapsed)
        counted = OWN_WINDOWS + history.queries
        exposure = OWN_WINDOWS / self.mean_rate(passed) + history.exposure
        weight = MEMORY / counted if counted > MEMORY else 1.0
        rate = (weight * counted + queries) / (weight * exposure + passed)
        return 1.0 + rate * (1.0 - passed)
