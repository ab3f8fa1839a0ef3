"""Exploration beyond the bonus: arms that nobody knows are tried a few times, early.

Without a prior one or two failures can lock an arm out for good; ten pulls of each
cost little and do not depend on luck. Where money is tight they would cost much: a pull
may take only a share of what the user's budget can spare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worker.core.eligibility import Mask
from worker.core.policies.base import View
from worker.core.prior import PriorKind

PULLS = 10
EVERY = 5  # decisions: the other four go where the policy says
SPARE_SHARE = 0.1  # of what the cheapest arm for the rest of the window would leave over
# α by what the prior knows: with scores of a table all arms share their uncertainty.
ALPHA: dict[PriorKind, float] = {"none": 2.0, "texts": 2.0, "battles": 0.3, "triplet": 0.3, "table": 0.1}


class ForcedPulls:
    """Counts the pulls of K arms and says when one of them is due."""

    def __init__(self, known: Sequence[bool]) -> None:
        self._pulls = np.where(np.array(known, dtype=bool), PULLS, 0)
        self._decisions = 0
        self.open = bool((self._pulls < PULLS).any())

    def seen(self, observations: Sequence[int]) -> None:
        """Rewards learned by arm, wherever: another worker's pulls count too."""
        self._pulls = np.maximum(self._pulls, np.array(observations, dtype=np.int64))
        self.open = bool((self._pulls < PULLS).any())

    def pulled(self, arm: int) -> None:
        """Count a decision for this arm."""
        if self.open:
            self._pulls[arm] += 1
            self.open = bool((self._pulls < PULLS).any())

    def due(self, view: View, eligible: Mask, cheapest_usd: float) -> int | None:
        """The eligible arm with the fewest pulls that the budget can spare, at every fifth decision.

        None once all have theirs. `cheapest_usd` is the mean cost of a query at its cheapest arm.
        """
        if not self.open:
            return None
        self._decisions += 1
        if self._decisions % EVERY:
            return None
        allowed = np.array(eligible, dtype=bool)
        costs = np.where(allowed, view.costs, np.inf)
        spare_usd = view.unspent_usd() - view.left * cheapest_usd
        pulls = np.where(allowed & (costs <= costs.min() + SPARE_SHARE * spare_usd), self._pulls, PULLS)
        arm = int(pulls.argmin())
        return arm if pulls[arm] < PULLS else None
