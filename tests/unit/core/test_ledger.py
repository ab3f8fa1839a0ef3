"""The ledger: what a window has settled and reserved, in any order of its events."""

from __future__ import annotations

import pytest

from tests.unit.core.lives import EXPECTED, RESERVATION, choice, decided, feedback, lookup, query
from worker.codecs import pack_spend, unpack_spend
from worker.core.fence import Fence
from worker.core.ledger import Spend, apply_feedback, apply_query, window_start
from worker.core.lifecycle import Feedback, Pending, feed
from worker.core.verdict import History


def settled(nanos: int = 7_000, offset: int = 7) -> Pending:
    after, _ = feed(decided(), Feedback(cost_nanos=nanos), feedback(offset), 3_000, lookup)
    return after


def test_query_reserves() -> None:
    """A decided query is counted and holds its reservation and its expected cost."""
    spend = apply_query(Spend(), decided(), query())
    assert (spend.queries, spend.reserved, spend.expected, spend.settled) == (1, RESERVATION, EXPECTED, 0)


def test_rejected_query_is_counted_but_holds_nothing() -> None:
    """A rejection counts as a query of the window and reserves nothing."""
    assert apply_query(Spend(), decided(rejected=True), query()) == Spend(queries=1, fence=Fence(query=5))


def test_feedback_settles_and_releases() -> None:
    """The real cost takes the place of what was held."""
    spend = apply_feedback(apply_query(Spend(), decided(), query()), settled(), feedback())
    assert (spend.settled, spend.reserved, spend.expected) == (7_000, 0, 0)


@pytest.mark.parametrize("apply", [apply_query, apply_feedback])
def test_contained_event_changes_nothing(apply: object) -> None:
    """An event that the fence contains leaves the very same record."""
    spend = Spend(settled=3, fence=Fence(query=100, feedback=100))
    event = query() if apply is apply_query else feedback()
    assert apply(spend, settled(), event) is spend  # type: ignore[operator]


def test_feedback_that_settled_nothing_changes_nothing() -> None:
    """Feedback whose money the arbiter took from another event leaves the window alone."""
    spend = apply_query(Spend(), decided(), query())
    assert apply_feedback(spend, settled(offset=7), feedback(8)) is spend
    assert apply_feedback(spend, decided(), feedback(7)) is spend


def test_early_money_settles_with_the_query() -> None:
    """Money that was parked settles under the query and nothing is ever reserved."""
    pending = decided(early={3: Feedback(cost_nanos=9_000)})
    spend = apply_query(Spend(), pending, query())
    assert (spend.settled, spend.reserved, spend.expected, spend.queries) == (9_000, 0, 0, 1)


def test_replayed_feedback_may_come_before_its_query() -> None:
    """After a crash the feedback may reach the ledger first: it settles, and the query then reserves nothing."""
    pending = settled()
    first = apply_feedback(Spend(), pending, feedback())
    assert (first.settled, first.reserved) == (7_000, 0)
    both = apply_query(first, pending, query())
    assert (both.settled, both.reserved, both.expected, both.queries) == (7_000, 0, 0, 1)


def test_replayed_query_reserves_until_its_feedback_is_replayed() -> None:
    """A query replayed when the arbiter knows its money but the ledger does not reserves, and the feedback releases."""
    pending = settled()
    open_ = apply_query(Spend(), pending, query())
    assert (open_.settled, open_.reserved) == (0, RESERVATION)
    closed = apply_feedback(open_, pending, feedback())
    assert (closed.settled, closed.reserved, closed.expected) == (7_000, 0, 0)


def test_rate_history_stays() -> None:
    """Settling and reserving never touch what was carried over from the window before."""
    spend = Spend(history=History(3.5, 1.25))
    assert apply_feedback(apply_query(spend, decided(), query()), settled(), feedback()).history == spend.history


def test_absurd_amounts_fit_into_state() -> None:
    """Sums that no 64 bits can hold saturate instead of stopping the worker at every restart."""
    spend, nonsense = Spend(), decided(choice(reservation=4 * 10**18, expected=4 * 10**18))
    for offset in range(10):
        spend = apply_query(spend, nonsense, query(offset))
    assert spend.reserved == spend.expected == 2**63 - 1
    assert unpack_spend(pack_spend(spend)) == spend


@pytest.mark.parametrize(
    ("timestamp", "offset", "start"),
    [
        (0.0, 0, 0),
        (86_399.999, 0, 0),
        (86_400.0, 0, 86_400),
        (86_400.0, 3_600, 3_600),
        (3_599.999, 3_600, -82_800),
        (-0.001, 0, -86_400),
        (1_700_000_000.123, 100_000, 1_699_933_600),
    ],
)
def test_windows_start_at_multiples_plus_offset(timestamp: float, offset: int, start: int) -> None:
    """A window starts at a multiple of its length plus the offset and contains its start but not its end."""
    assert window_start(timestamp, 86_400, offset) == start
