"""Budgets under the default and the other reservations: what a decision reserves, and what happens without room."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.broker.conftest import MODELS
from tests.broker.support import NOBODY, READY_S, Deployment, Row, deployed, unique, until

EPSILON = 0.4
EQUAL = [
    {"model": "a", "input_usd": 1.0, "output_usd": 2.0},
    {"model": "b", "input_usd": 2.0, "output_usd": 3.0},
    {"model": "c", "input_usd": 4.0, "output_usd": 5.0},
    {"model": "d", "input_usd": 8.0, "output_usd": 9.0},
]


@pytest.fixture(scope="module")
def standard(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """As the session's, but nobody has taught it anything: these tests rely on what is reserved."""
    with deployed(broker, tmp_path_factory.mktemp("untaught"), MODELS) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def other(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker that explores, reserves the expected cost, overdraws, and tells only of the chosen model."""
    settings = {
        "exploration_rate": EPSILON, "reserve": "expected", "fallback": "cheapest", "decision_detail": "chosen",
        "policy": "unlimited",
    }  # fmt: skip
    with deployed(broker, tmp_path_factory.mktemp("other"), EQUAL, **settings) as deployment:
        yield deployment


def spend_all(deployment: Deployment, user: str, **fields: object) -> list[Row]:
    """Decisions of queries that get no feedback, up to the first rejection."""
    decisions = []
    while not decisions or (decisions[-1]["status"] == "routed" and len(decisions) < 200):
        decisions.append(deployment.client.decide(user, **fields))
    return decisions


def test_decisions_reserve_until_nothing_fits(standard: Deployment) -> None:
    """Every decision reserves what it says, within what remains; when no model fits, it is `budget_exhausted`."""
    user = standard.client.user(0.02)

    *routed, rejected = spend_all(standard, user, models=["narrow"], input_tokens=50)

    held, remaining = 0.0, 0.02
    for decision in routed:
        budget, reservation = decision["budget"], decision["reservation_usd"]
        assert decision["estimated_cost_usd"] <= reservation <= remaining
        held += reservation
        remaining = budget["remaining_usd"]
        assert budget["reserved_usd"] == pytest.approx(held, abs=1e-9)
        assert remaining == pytest.approx(0.02 - held, abs=1e-9)
    assert routed
    assert (rejected["status"], rejected["reason"]) == ("rejected", "budget_exhausted")
    assert {c["model"]: c["excluded"] for c in rejected["candidates"]} == {
        "large": "not_allowed", "narrow": "budget", "small": "not_allowed",
    }  # fmt: skip
    assert rejected["budget"]["reserved_usd"] == pytest.approx(held, abs=1e-9)


def test_settling_makes_room(standard: Deployment) -> None:
    """A user whose budget is reserved can go on as soon as calls turn out cheaper."""
    user = standard.client.user(0.02)
    *routed, _ = spend_all(standard, user, models=["narrow"])

    standard.client.settle(user, routed[0]["query_id"], status="error")

    assert standard.client.decide(user, models=["narrow"])["status"] == "routed"


def test_too_dear_models_are_excluded(standard: Deployment) -> None:
    """A model that does not fit what remains is excluded by `budget`, and a cheaper one is chosen."""
    user = standard.client.user(0.01)
    decision = standard.client.decide(user, input_tokens=1000, models=["large", "small"])
    excluded = {candidate["model"]: candidate["excluded"] for candidate in decision["candidates"]}
    assert decision["model"] == "small"
    assert excluded == {"large": "budget", "narrow": "not_allowed", "small": None}


def test_max_cost_counts_the_reservation(standard: Deployment) -> None:
    """max_cost_usd bounds what is reserved: just below it the query is rejected, at it routed."""
    user = unique("user")
    reservation = standard.client.decide(user, models=["small"])["reservation_usd"]

    assert standard.client.decide(user, models=["small"], max_cost_usd=reservation)["status"] == "routed"
    assert standard.client.decide(user, models=["small"], max_cost_usd=reservation - 1e-9)["reason"] == "max_cost"


def test_max_cost_comes_before_the_budget(standard: Deployment) -> None:
    """A query over its own limit and over the user's is rejected for its own."""
    user = standard.client.user(0)
    assert standard.client.decide(user, max_cost_usd=0)["reason"] == "max_cost"
    assert standard.client.decide(user, max_cost_usd=1000)["reason"] == "budget_exhausted"


def test_expected_cost_is_reserved(other: Deployment) -> None:
    """With PILOT_RESERVE=expected a decision reserves what it estimates."""
    decision = other.client.decide(other.client.user(1.0))
    assert decision["reservation_usd"] == decision["estimated_cost_usd"] > 0


def test_only_the_chosen_model_is_told(other: Deployment) -> None:
    """With PILOT_DECISION_DETAIL=chosen the list of candidates is empty, in rejections too."""
    assert other.client.decide("ann")["candidates"] == []
    assert other.client.decide("ann", models=[NOBODY])["candidates"] == []


def test_fallback_takes_the_cheapest(other: Deployment) -> None:
    """With PILOT_FALLBACK=cheapest a user without room gets the cheapest allowed model, and overdraws."""
    user = other.client.user(0)

    decision = other.client.decide(user, models=["d", "c", "b"])

    assert (decision["status"], decision["model"], decision["propensity"]) == ("routed", "b", 1)
    assert decision["budget"]["remaining_usd"] == -decision["reservation_usd"] < 0


def test_fallback_keeps_the_own_limit(other: Deployment) -> None:
    """The fallback overdraws the budget only: max_cost_usd, tags and allow-lists still hold."""
    user = other.client.user(0)
    assert other.client.decide(user, max_cost_usd=0)["reason"] == "max_cost"
    assert other.client.decide(user, requires=["vision"])["reason"] == "no_model"


@pytest.mark.parametrize("eligible", [1, 2, 4])
def test_propensity_of_exploration(other: Deployment, eligible: int) -> None:
    """With ε the greedy one of m models has the propensity 1 − ε + ε/m and each other one ε/m; both occur."""
    user, models = unique("user"), ["a", "b", "c", "d"][:eligible]
    sent = [other.client.query(user, f"explore-{eligible}-{number}", models=models)[0] for number in range(40)]

    decisions = [json.loads(other.client.decisions(query_id)[0].value) for query_id in sent]

    greedy, explored = 1 - EPSILON + EPSILON / eligible, EPSILON / eligible
    seen = sorted({round(decision["propensity"], 9) for decision in decisions})
    assert seen == pytest.approx([1.0] if eligible == 1 else [explored, greedy])


def test_policy_is_named(other: Deployment) -> None:
    """The decision names the policy of the setting, and has no shadow price where the policy has none."""
    decision = other.client.decide(other.client.user(1.0))
    assert decision["policy"] == "unlimited"
    assert decision["budget"]["shadow_price"] is None


@pytest.mark.text
def test_text_alone_is_encoded(other: Deployment) -> None:
    """A query with a text alone is routed on the text's embedding; later queries keep their order behind it."""
    user = unique("user")
    first, _ = other.client.query(user, text="What is the capital of France?")
    second, sent = other.client.query(user)

    until(lambda: other.client.seen(first), "the first text, which loads the encoder", READY_S)
    other.client.committed(sent)

    (one,), (two,) = other.client.seen(first), other.client.seen(second)
    assert json.loads(one.value)["status"] == "routed"
    assert one.offset < two.offset
