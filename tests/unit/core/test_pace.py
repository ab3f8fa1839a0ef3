"""The pace of a budget: what a query may cost when some money is held by decisions that are still open."""

import math
from collections import deque

import pytest

from worker.core.policies.base import View
from worker.core.verdict import Account

QUERIES = 400
LIMIT = 4_000_000_000  # nano-dollars: a cent a query


def view(account: Account | None, left: float) -> View:
    return View("q", [0.0, 0.0], [0.0, 0.0], [True, True], account, left)


def window(delay: int, reserved_times: float) -> tuple[list[float], list[int]]:
    """A window in which each query costs what is affordable and reserves a multiple: paces, reserved plus settled."""
    settled = reserved = expected = 0
    paces, taken = [], []
    due: deque[int] = deque()
    for number in range(QUERIES):
        account = Account(LIMIT, settled, reserved, expected, number)
        paces.append(view(account, float(QUERIES - number)).affordable_usd())
        cost = round(paces[-1] * 1e9)
        due.append(cost)
        expected += cost
        reserved += round(reserved_times * cost)
        taken.append(settled + reserved)
        if len(due) > delay:
            cost = due.popleft()
            settled, expected, reserved = settled + cost, expected - cost, reserved - round(reserved_times * cost)
    return paces, taken


def test_with_nothing_open_what_is_left_is_divided_by_those_to_come() -> None:
    """Half of the money for a quarter of the queries: twice the mean."""
    assert view(Account(LIMIT, LIMIT // 2, queries=300), 100.0).affordable_usd() == pytest.approx(0.02)


def test_without_limit_anything_is_affordable() -> None:
    """No account, or one without a limit."""
    assert view(None, 1.0).affordable_usd() == view(Account(None), 1.0).affordable_usd() == math.inf


@pytest.mark.parametrize("delay", [0, 40, 200])
def test_the_last_query_still_finds_its_reservation(delay: int) -> None:
    """However late feedback is, reserved and settled money together end just at the limit, no query before it."""
    paces, taken = window(delay, 2.0)
    assert max(taken) == taken[-1] == pytest.approx(LIMIT, rel=0.01)
    assert min(paces) > 0.4 * paces[0]


def test_what_reserves_its_cost_is_paced_evenly() -> None:
    """Late feedback alone, with nothing held beyond it, changes no pace."""
    paces, _ = window(100, 1.0)
    assert paces == pytest.approx([0.01] * QUERIES, rel=1e-6)
