"""What a budget policy sees and says: one query with scores and costs in, an arm and a price out.

A policy never looks at reservations: which arms the money allows has been decided
before. It compares expected costs, and plans on a sample of recent queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from worker.core.eligibility import Mask
from worker.core.verdict import Account, FloatArray
from worker.money import NANOS_PER_USD


class View(NamedTuple):
    """One query as a policy sees it; K values each, costs in USD.

    `score` is the expected reward with the exploration bonus. At least one arm is
    eligible. `left` is the number of queries, this one included, that the user will
    still send in the window; it means nothing without an account.
    """

    query_id: str
    score: Sequence[float]
    costs: Sequence[float]
    eligible: Mask
    account: Account | None = None
    left: float = 1.0
    user_id: str = ""

    def unspent_usd(self) -> float:
        """What the window has left when every open decision costs what was expected of it."""
        account = self.account
        if account is None or account.limit is None:
            return math.inf
        return (account.limit - account.settled - account.expected) / NANOS_PER_USD

    def affordable_usd(self) -> float:
        """Mean cost of a query that the rest of the window, this one included, can bear; infinite without a limit.

        When the window ends as many decisions will be open as now, and they will hold what they
        reserved, not what they cost. A pace that forgets this has the last queries rejected.
        """
        if self.account is None:
            return math.inf
        left = self.left
        limit, settled, reserved, expected, queries, _, _, _ = self.account
        if limit is None:
            return math.inf
        unspent_usd = (limit - settled - expected) / NANOS_PER_USD
        if expected <= 0 or not queries:
            return unspent_usd / left
        outstanding = queries * expected / (settled + expected)
        excess = reserved / expected - 1.0 if reserved > expected else 0.0
        if left >= outstanding:
            return unspent_usd / (left + excess * outstanding)
        held_usd = (1.0 - left / outstanding) * excess * expected / NANOS_PER_USD
        return (unspent_usd - held_usd) / (left + excess * left)


class Choice(NamedTuple):
    """An eligible arm, the price of a dollar in reward, and which of the K arms a threshold keeps out."""

    arm: int
    shadow_price: float | None = None
    threshold: Mask | None = None


# A named tuple's own constructor is a Python function and takes twice as long.
_choice: Callable[[tuple[int, float | None, Mask | None]], Choice] = partial(tuple.__new__, Choice)


class Sample(NamedTuple):
    """Recent queries as they would be scored now: arrays of shape (n, K), costs in USD.

    `mean` is the expected reward, `score` the same with the exploration bonus.
    """

    mean: FloatArray
    score: FloatArray
    costs: FloatArray


class Policy(Protocol):
    """The rule that turns scores, costs and a budget into a choice."""

    @property
    def name(self) -> str:
        """As in the setting and the decisions."""

    def plan(self, sample: Sample) -> None:
        """Prepare for the queries to come; called before the first choice and now and then."""

    def choose(self, view: View) -> Choice:
        """An eligible arm. The same view after the same plan gives the same choice."""


def best(values: Sequence[float], eligible: Mask) -> int:
    """The eligible arm with the highest value; the first of equals."""
    # Mostly the best of all is eligible, and then nothing has to be masked.
    arm = values.index(max(values))
    if eligible[arm]:
        return arm
    return max((k for k, allowed in enumerate(eligible) if allowed), key=values.__getitem__)


def best_at(price: float, view: View) -> Choice:
    """The eligible arm with the highest score − price·cost, at this price."""
    _, scores, costs, eligible, _, _, _ = view
    arm = best([score - price * cost for score, cost in zip(scores, costs, strict=True)], eligible)
    return _choice((arm, price, None))
