"""Why each candidate won or lost, from what a decision records."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from worker.cli import explain
from worker.cli.explain import candidates
from worker.core.verdict import Exclusion

Row = dict[str, Any]


def decision(*rows: Row, model: str | None = "a", price: float | None = 10.0, propensity: float | None = 1.0) -> Row:
    return {
        "model": model, "policy": "pacing", "propensity": propensity, "candidates": list(rows),
        "budget": {"shadow_price": price},
    }  # fmt: skip


def candidate(model: str, reward: float, cost: float = 0.0, excluded: str | None = None) -> Row:
    return {
        "model": model, "expected_reward": reward, "uncertainty": 0.1, "estimated_cost_usd": cost, "excluded": excluded,
    }  # fmt: skip


def why(told: Row) -> dict[str, str]:
    return {row["model"]: row["why"] for row in candidates(told)}


def test_worth_is_reward_less_the_price_of_the_cost() -> None:
    """At 10 reward a USD, .03 USD take .3 of a reward."""
    rows = candidates(decision(candidate("a", 0.6), candidate("b", 0.8, 0.03)))
    assert [row["worth"] for row in rows] == pytest.approx([0.6, 0.5])
    assert [row["why"] for row in rows] == ["chosen", "worth 0.1 less than a"]


def test_without_a_budget_money_is_no_object() -> None:
    """Worth is the reward."""
    told = {**decision(candidate("a", 0.6, 1.0)), "budget": None}
    assert candidates(told)[0]["worth"] == 0.6


def test_a_worthier_loser_lost_to_the_bonus() -> None:
    """The bonus is not recorded, but nothing else can have decided."""
    told = why(decision(candidate("a", 0.5), candidate("b", 0.75)))
    assert told["b"] == "worth 0.25 more, which the exploration bonus of a outweighed"


def test_a_random_choice_is_said_to_be_one() -> None:
    """A propensity below one half is that of a drawn arm."""
    told = why(decision(candidate("a", 0.5), candidate("b", 0.75), propensity=0.05))
    assert told["b"] == "a was drawn at random (exploration rate)"


def test_a_policy_without_price_is_named() -> None:
    """There is no worth to compare."""
    told = why(decision(candidate("a", 0.5), candidate("b", 0.75), price=None))
    assert told["b"] == "policy pacing preferred a"


@pytest.mark.parametrize("code", explain._EXCLUDED)
def test_exclusions_are_explained(code: str) -> None:
    """Whoever was kept out reads the reason, in rejected decisions too."""
    assert (
        why(decision(candidate("b", 0.5, excluded=code), model=None, propensity=None))["b"] == explain._EXCLUDED[code]
    )


def test_every_exclusion_has_its_words() -> None:
    """A new code needs a line here."""
    assert set(explain._EXCLUDED) == set(get_args(Exclusion))
