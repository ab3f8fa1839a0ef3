"""Budgets in use: sums, the fullest, and a bound on memory."""

from __future__ import annotations

import pytest

from worker.observe.budgets import FULLEST, BudgetBook

WINDOW_S = 100


@pytest.fixture
def book() -> BudgetBook:
    """A book of the window that begins at 1000."""
    found = BudgetBook(WINDOW_S)
    found.turn_to(1000)
    return found


def test_sums_over_limited_users(book: BudgetBook) -> None:
    """Users without limit are left out; shares count what is reserved too."""
    limits = {"low": 100, "over": 100, "out": 100}
    for user, settled, reserved in (("low", 10, 5), ("over", 70, 15), ("out", 90, 9), ("free", 10**9, 0)):
        book.note(user, settled, reserved)
    use = book.use(1025.0, limits.get)
    assert (use.users, use.over_80, use.exhausted) == (3, 2, 1)
    assert (use.limit, use.settled, use.reserved) == (300, 170, 29)
    assert (use.window_start, use.window_s, use.elapsed) == (1000, WINDOW_S, 0.25)
    assert [user.user_id for user in use.fullest] == ["out", "over", "low"]


def test_a_new_limit_counts_at_once(book: BudgetBook) -> None:
    """The limit is the one of the moment, not the one under which was spent."""
    book.note("u", 50, 0)
    assert book.use(1000, lambda _: 100).exhausted == 0
    assert book.use(1000, lambda _: 50).exhausted == 1
    assert book.use(1000, lambda _: None).users == 0


def test_a_limit_of_nothing_is_used_up(book: BudgetBook) -> None:
    """No division by it."""
    book.note("u", 0, 0)
    assert book.use(1000, lambda _: 0).exhausted == 1


def test_the_latest_of_a_user_counts(book: BudgetBook) -> None:
    """Reservations that settle do not count twice."""
    book.note("u", 0, 60)
    book.note("u", 40, 0)
    use = book.use(1000, lambda _: 100)
    assert (use.users, use.settled, use.reserved) == (1, 40, 0)


def test_another_window_begins_empty(book: BudgetBook) -> None:
    """And the same one goes on."""
    book.note("u", 1, 0)
    book.turn_to(1000)
    assert "u" in book
    book.turn_to(1100)
    assert "u" not in book


def test_the_fullest_are_few(book: BudgetBook) -> None:
    """However many users there are."""
    for number in range(5 * FULLEST):
        book.note(f"u{number}", number, 0)
    assert [user.settled for user in book.use(1000, lambda _: 1000).fullest][:2] == [5 * FULLEST - 1, 5 * FULLEST - 2]
    assert len(book.use(1000, lambda _: 1000).fullest) == FULLEST


def test_memory_is_bounded() -> None:
    """Of too many users those that spent last are known."""
    book = BudgetBook(WINDOW_S, max_users=3)
    for user in ("a", "b", "c", "a", "d"):
        book.note(user, 1, 0)
    assert [user in book for user in "abcd"] == [True, False, True, True]
