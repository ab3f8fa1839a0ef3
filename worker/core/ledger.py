"""The ledger: what one user has settled and reserved in one budget window.

A decision reserves before it is sent; feedback settles and releases. Amounts are
whole nano-dollars. Which effects a record contains is told by its fences, what a
query has contributed is told by its `Pending` (the arbiter), so both functions
below may be called again for the same event without effect.
"""

from __future__ import annotations

from typing import NamedTuple

from worker.core.fence import Event, Fence, Source
from worker.core.lifecycle import Pending
from worker.core.verdict import History
from worker.money import saturated


class Spend(NamedTuple):
    """One user's budget window; `expected` is Σ Ĉ of the decisions that are still open."""

    settled: int = 0
    reserved: int = 0
    expected: int = 0
    queries: int = 0
    history: History = History()
    fence: Fence = Fence()


def apply_query(spend: Spend, pending: Pending, event: Event) -> Spend:
    """The effect of a decided query on its window: count it, then reserve or settle.

    Nothing is reserved when the money already arrived: early feedback settles
    here, under the query; feedback that a replay applied before its query has
    settled already.
    """
    if spend.fence.contains(event):
        return spend
    settled, reserved, expected, queries, history, fence = spend
    counted = Spend(settled, reserved, expected, queries + 1, history, fence.raised(event))
    money = pending.money
    if money is None or (money.source is Source.FEEDBACK and not spend.fence.contains(money.event)):
        return _hold(counted, pending, sign=1)
    if money.source is Source.QUERY:
        return counted._replace(settled=saturated(counted.settled + money.nanos))
    return counted


def apply_feedback(spend: Spend, pending: Pending, event: Event) -> Spend:
    """The effect of a feedback on the window of its query: settle, and release what was reserved."""
    money = pending.money
    if money is None or money.event != event or spend.fence.contains(event):
        return spend
    before, reserved, expected, queries, history, fence = spend
    settled = Spend(saturated(before + money.nanos), reserved, expected, queries, history, fence.raised(event))
    reserved_here = fence.contains(pending.event)
    return _hold(settled, pending, sign=-1) if reserved_here else settled


def _hold(spend: Spend, pending: Pending, sign: int) -> Spend:
    choice = pending.choice
    if choice is None:
        return spend
    settled, reserved, expected, queries, history, fence = spend
    reserved = saturated(reserved + sign * choice.reservation)
    return Spend(settled, reserved, saturated(expected + sign * choice.expected), queries, history, fence)


def window_start(timestamp_s: float, length_s: int, offset_s: int) -> int:
    """Start of the window that a broker time belongs to, in seconds since the epoch."""
    return int((timestamp_s - offset_s) // length_s) * length_s + offset_s
