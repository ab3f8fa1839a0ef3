"""Held-back votes and how well they are foretold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.pretrain.voters import PROMPTS, drawn
from worker.pretrain.battles import Battles
from worker.pretrain.holdout import accuracy, foretold, hold_back


def test_no_prompt_is_on_both_sides() -> None:
    """A prompt's votes are all kept or all held back, 15 % of the prompts are, and no vote is lost."""
    battles, _, _ = drawn(1)
    train, test = hold_back(battles, 3)
    assert not set(train.prompt) & set(test.prompt)
    assert len(train) + len(test) == len(battles)
    assert len(set(test.prompt)) == pytest.approx(0.15 * PROMPTS, abs=2)


def test_baselines_come_from_the_kept_votes() -> None:
    """The majority of a pair and the models' strengths are counted in train, ties decide nothing."""
    train = Battles(["p"] * 3, [None] * 3, ("a", "b", "c"), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]),
                    np.array([1, 1, 0, 2]), np.array([1.0, 1.0, 1.0, 1.0]))  # fmt: skip
    test = replace(
        train, prompt=np.full(3, 2), a=np.array([0, 1, 0]), b=np.array([1, 0, 2]), outcome=np.array([1.0, 0.0, 1.0])
    )
    # a beat b twice and lost once; a and c never met, but a is the stronger by the detour over b.
    assert foretold(train, test) == {"votes": 2, "pair_majority": 0.75, "strength": 1.0}


def test_accuracy_counts_decided_votes() -> None:
    """A margin of the outcome's sign is right, of none half right, and a tie is no question."""
    assert accuracy(np.array([2.0, 2.0, 0.0, 1.0]), np.array([1.0, -1.0, 1.0, 0.0])) == 0.5
    assert accuracy(np.zeros(1), np.zeros(1)) is None
