"""Fences: which events a value already contains."""

from __future__ import annotations

from tests.unit.core.lives import feedback, query
from worker.core.fence import Fence


def test_a_new_value_contains_nothing() -> None:
    """A value that nobody wrote contains not even the first offset of either topic."""
    assert not Fence().contains(query(0))
    assert not Fence().contains(feedback(0))


def test_raising_contains_everything_up_to_the_event() -> None:
    """A fence contains its event and what lies before it, and nothing after it."""
    fence = Fence().raised(query(5))
    assert [fence.contains(query(offset)) for offset in (4, 5, 6)] == [True, True, False]


def test_topics_are_fenced_apart() -> None:
    """An effect of one topic hides none of the other, whose offsets count for themselves."""
    fence = Fence().raised(query(5)).raised(feedback(2))
    assert not fence.contains(feedback(3))
    assert fence.contains(query(5))
    assert fence == Fence(query=5, feedback=2)
