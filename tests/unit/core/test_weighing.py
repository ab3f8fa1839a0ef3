"""Candidates: kept as columns, read as rows."""

from worker.core.arms import Arm
from worker.core.eligibility import BUDGET, ELIGIBLE
from worker.core.verdict import Candidate
from worker.core.weighing import Candidates, Weighed

ARMS = (Arm("small"), Arm("large"))
WEIGHED = Weighed([0.5, 0.9], [0.1, 0.2], [0.6, 1.1], [1e-6, 2.5e-9], [1e-6, 2e-9], [5_000, 9])
ROWS = (Candidate("small", 0.5, 0.1, 1_000, None), Candidate("large", 0.9, 0.2, 2, "budget"))


def candidates() -> Candidates:
    return Candidates(ARMS, WEIGHED, [ELIGIBLE, BUDGET])


def test_reads_as_one_row_an_arm() -> None:
    """Every arm in its order, money in whole nano-dollars, with the reason that keeps it out."""
    found = candidates()
    assert tuple(found) == ROWS
    assert len(found) == 2
    assert tuple(found) == ROWS  # a second reading finds the same


def test_is_a_collection_like_any_other() -> None:
    """It equals the same rows in a tuple, contains them, and shows them."""
    found = candidates()
    assert found == ROWS
    assert found == candidates()
    assert found != ROWS[:1]
    assert ROWS[1] in found
    assert hash(found) == hash(candidates())
    assert repr(found) == repr(ROWS)
