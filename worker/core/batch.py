"""Queries that came together: weighed at once, then decided one after another."""

from __future__ import annotations

from collections.abc import Sequence

from worker.core.eligibility import Nanos
from worker.core.router import Router
from worker.core.verdict import Account, Request, Verdict
from worker.core.weighing import Weighed


class Batch:
    """Decides each query as `Router.decide` would, for less: scores and costs come from one matrix product.

    They are used while the router believes the same. After a refresh, an outcome or a new plan
    the queries that are left are weighed again, so waiting in a batch never makes a decision stale.
    While open decisions count, each changes the next one's deviations, and only the rest is shared.
    """

    def __init__(self, router: Router, requests: Sequence[Request]) -> None:
        self._router = router
        self._requests = requests
        self._rows: list[Weighed] = []
        self._first = 0  # the query of the first row
        self._revision = -1

    def decide(self, index: int, account: Account | None, bounds: Nanos | None = None) -> Verdict:
        """The verdict on one of the queries; `account` and `bounds` as for `Router.decide`."""
        row = index - self._first
        if self._revision != self._router.revision or not 0 <= row < len(self._rows):
            self._rows = self._router.weigh_many(self._requests[index:])
            self._first, self._revision, row = index, self._router.revision, 0
        return self._router.decide(self._requests[index], account, bounds, self._rows[row])
