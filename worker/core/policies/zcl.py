"""The paper's budget policy: an online multi-choice knapsack by a rising threshold.

ON-MCKP with the threshold of Zhou, Chakrabarty and Lukose (2008), as PILOT (arXiv
2508.21141, section 4) uses it: a window is cut into bins, each with its share of what
is left, and the fuller a bin the more reward a dollar must bring.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from worker.core.eligibility import Mask
from worker.core.policies.base import Choice, Sample, View, best
from worker.core.verdict import Account

LEAST_REWARD = 1e-3  # a score at or below zero still has a ratio
QUANTILES = (0.01, 0.99)  # of reward per dollar, for the bounds L and U
LEAST_BIN = 5.0  # queries
BINS = 20.0  # a window
DEAREST_CALLS = 5.0  # of the dearest arm that a bin must be able to hold
USERS = 100_000  # whose bins are remembered; a forgotten user begins a new bin


@dataclass(slots=True)
class _Bin:
    """Some consecutive queries of one user; `budget_usd` and `spent_usd` are what z compares."""

    first: int
    size: float
    budget_usd: float
    spent_usd: float = 0.0

    @property
    def fill(self) -> float:
        """z, from 0 to 1."""
        return min(self.spent_usd / self.budget_usd, 1.0) if self.budget_usd > 0 else 1.0


class Zcl:
    """Best score among the arms whose reward per dollar passes the threshold, else the cheapest.

    Args:
        excess: count only what a choice costs above the query's cheapest arm. Otherwise,
            as published, queries that fall back on the cheapest arm eat the bin as well.
    """

    name = "zcl"

    def __init__(self, *, excess: bool = True) -> None:
        self._excess = excess
        self._lower, self._upper = 1.0, 1.0
        self._dearest_usd = self._least_usd = 0.0
        self._bins: OrderedDict[str, _Bin] = OrderedDict()

    def plan(self, sample: Sample) -> None:
        """L and U from the sample, and what its queries cost at most and at least."""
        ratios = np.maximum(sample.mean, LEAST_REWARD) / np.maximum(sample.costs, 1e-12)
        self._lower, self._upper = (float(value) for value in np.quantile(ratios, QUANTILES))
        self._dearest_usd = float(sample.costs.mean(axis=0).max())
        self._least_usd = float(sample.costs.min(axis=1).mean())

    def choose(self, view: View) -> Choice:
        """The best arm above the threshold of the user's bin."""
        account = view.account
        if account is None:
            return Choice(best(view.score, view.eligible))
        own = self._bin(view, account)
        passes = self._passes(view, own.fill)
        arm = best(view.score, passes) if any(passes) else best([-cost for cost in view.costs], view.eligible)
        kept_out = [allowed and not passed for allowed, passed in zip(view.eligible, passes, strict=True)]
        kept_out[arm] = False
        own.spent_usd += view.costs[arm] - (min(view.costs) if self._excess else 0.0)
        return Choice(arm, None, kept_out)

    def _passes(self, view: View, fill: float) -> Mask:
        threshold = (self._upper * math.e / self._lower) ** fill * self._lower / math.e
        arms = zip(view.eligible, view.costs, view.score, strict=True)
        return [allowed and cost * threshold <= max(score, LEAST_REWARD) for allowed, cost, score in arms]

    def _bin(self, view: View, account: Account) -> _Bin:
        own = self._bins.pop(view.user_id, None)
        if own is None or not own.first <= account.queries < own.first + own.size:
            own = self._open(view, account)
        self._bins[view.user_id] = own
        if len(self._bins) > USERS:
            self._bins.popitem(last=False)
        return own

    def _open(self, view: View, account: Account) -> _Bin:
        """A bin gets its share of what is left, so what the last one saved rolls over."""
        unspent = max(view.unspent_usd(), 0.0)
        affordable = max(unspent / view.left, 1e-12)
        size = max(LEAST_BIN, (view.left + account.queries) / BINS, DEAREST_CALLS * self._dearest_usd / affordable)
        size = min(size, max(view.left, 1.0))
        budget = unspent / max(1.0, view.left / size)
        return _Bin(account.queries, size, budget - size * self._least_usd if self._excess else budget)
