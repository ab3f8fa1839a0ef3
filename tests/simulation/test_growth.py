"""State does not grow with time: what is forgotten leaves, also when nobody sends anything any more."""

from __future__ import annotations

from tests.simulation.week import Week

USERS, PER_DAY, DAYS = 300, 2.0, 5


def test_state_is_bounded_by_the_time_to_live() -> None:
    """After the first days a lane keeps as much as before, however long it runs, and nothing after a silence."""
    *samples, silent = Week(USERS, PER_DAY).run(DAYS)
    early, late = samples[3], samples[-1]
    assert late.queries > 2 * early.queries
    for name in ("decisions", "windows", "sweeper", "stored_bytes"):
        assert getattr(late, name) < 1.2 * getattr(early, name), name
    assert late.decisions < 1.2 * USERS * PER_DAY
    assert late.windows < 4 * USERS
    assert late.parked < 0.01 * USERS * PER_DAY
    assert (silent.decisions, silent.parked, silent.windows, silent.sweeper) == (0, 0, 0, 0)


def test_without_expiry_state_grows() -> None:
    """The same days without a sweeper keep every decision and every window: the test above would notice."""
    *_, last = Week(USERS, PER_DAY, expiry=False).run(DAYS)
    assert last.decisions == last.queries
    assert last.windows > 4 * USERS
