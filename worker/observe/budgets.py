"""Budgets in use: what every user of this worker has spent in the current window, bounded in memory.

User ids never become metric labels: the sums do, and the fullest few are shown on the status page.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from worker.observe.vitals import BudgetUse, UserBudget, share_of

MAX_USERS = 100_000  # about 20 MB; of more users those that spent last are known
FULLEST = 20
OVER = 0.8
# Not 1: what is left is mostly too little for any model, long before it is nothing.
EXHAUSTED = 0.99

LimitOf = Callable[[str], int | None]


class BudgetBook:
    """The spend of one window by user. One thread writes, any may sum up."""

    def __init__(self, window_s: int, max_users: int = MAX_USERS) -> None:
        self.window = 0
        self._window_s = window_s
        self._max_users = max_users
        self._spent: dict[str, tuple[int, int]] = {}

    def turn_to(self, window: int) -> None:
        """Forget everything if this is another window; its start in seconds since the epoch."""
        if window != self.window:
            self.window = window
            self.clear()

    def clear(self) -> None:
        """Forget everything, for instance because other partitions are this worker's now."""
        self._spent = {}

    def note(self, user_id: str, settled: int, reserved: int) -> None:
        """A user's money in the current window, in nano-dollars."""
        self._spent.pop(user_id, None)  # the last to spend is the last in order
        self._spent[user_id] = (settled, reserved)
        if len(self._spent) > self._max_users:
            del self._spent[next(iter(self._spent))]

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._spent

    def use(self, now_s: float, limit_of: LimitOf) -> BudgetUse:
        """The sums over users with a limit, which may have changed since they spent."""
        rows: list[tuple[float, str, int, int, int]] = []
        for user, (settled, reserved) in list(self._spent.items()):
            limit = limit_of(user)
            if limit is not None:
                rows.append((share_of(limit, settled + reserved), user, limit, settled, reserved))
        return BudgetUse(
            window_start=self.window,
            window_s=self._window_s,
            elapsed=min(max((now_s - self.window) / self._window_s, 0.0), 1.0),
            users=len(rows),
            over_80=sum(row[0] > OVER for row in rows),
            exhausted=sum(row[0] >= EXHAUSTED for row in rows),
            limit=sum(row[2] for row in rows),
            settled=sum(row[3] for row in rows),
            reserved=sum(row[4] for row in rows),
            fullest=tuple(UserBudget(*row[1:]) for row in heapq.nlargest(FULLEST, rows)),
        )
