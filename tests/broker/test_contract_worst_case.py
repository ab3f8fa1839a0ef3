"""Reserving for the worst case: exact bounds, no arm without one, and never above the limit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.broker.support import EMBEDDING, Deployment, Row, deployed, unique

MODELS = [
    {"model": "bounded", "input_usd": 1.0, "output_usd": 2.0, "request_usd": 0.001, "max_output_tokens": 1000},
    {"model": "open", "input_usd": 10.0, "output_usd": 20.0},
]


@pytest.fixture(scope="module")
def worst(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker that reserves for the worst case; the fallback of its settings must not count."""
    folder = tmp_path_factory.mktemp("worst")
    with deployed(broker, folder, MODELS, reserve="worst_case", fallback="cheapest") as deployment:
        yield deployment


def excluded(decision: Row) -> dict[str, str | None]:
    return {candidate["model"]: candidate["excluded"] for candidate in decision["candidates"]}


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({"input_tokens": 500}, 0.0035),
        ({"input_tokens": 500, "max_output_tokens": 100}, 0.0017),
        ({"input_tokens": 500, "max_output_tokens": 5000}, 0.0035),
        ({"input_tokens": 0, "max_output_tokens": 0}, 0.001),
        ({"text": "ü" * 250, "embedding": EMBEDDING}, 0.0035),
        ({"text": "ü" * 250, "embedding": EMBEDDING, "input_tokens": 100}, 0.0031),
    ],
)
def test_bound_is_reserved(worst: Deployment, fields: Row, bound: float) -> None:
    """Input tokens (else the text's bytes) and the smaller output limit are reserved at list price."""
    decision = worst.client.decide(worst.client.user(1.0), models=["bounded"], **fields)
    assert decision["reservation_usd"] == decision["budget"]["reserved_usd"] == bound


def test_arm_without_bound_is_excluded(worst: Deployment) -> None:
    """Without an output limit of its own or of the query a model is `unbounded` and another one is taken."""
    decision = worst.client.decide(worst.client.user(1.0), input_tokens=10)
    assert decision["model"] == "bounded"
    assert excluded(decision) == {"bounded": None, "open": "unbounded"}


def test_output_limit_of_the_query_bounds(worst: Deployment) -> None:
    """A query that limits its output bounds every model."""
    user = worst.client.user(1.0)
    decision = worst.client.decide(user, input_tokens=100, max_output_tokens=100, models=["open"])
    assert decision["reservation_usd"] == 0.003


@pytest.mark.parametrize("fields", [{"input_tokens": 10, "models": ["open"]}, {"max_output_tokens": 10}])
def test_unbounded_is_a_reason(worst: Deployment, fields: Row) -> None:
    """When no model has a bound the query is rejected as `unbounded`, before its own limit and the budget count."""
    user = worst.client.user(0)
    decision = worst.client.decide(user, max_cost_usd=0, **fields)
    assert (decision["status"], decision["reason"]) == ("rejected", "unbounded")
    assert set(excluded(decision).values()) <= {"unbounded", "not_allowed"}


def test_user_without_limit_needs_no_bound(worst: Deployment) -> None:
    """A user without a limit has nothing to guarantee: a model without a bound may answer."""
    decision = worst.client.decide(unique("user"), models=["open"])
    assert (decision["model"], decision["budget"]) == ("open", None)


def test_own_limit_counts_the_bound(worst: Deployment) -> None:
    """max_cost_usd is compared with the bound, before the budget is."""
    user = worst.client.user(0.0035)
    asked = {"input_tokens": 500, "models": ["bounded"]}
    assert worst.client.decide(user, max_cost_usd=0.0034, **asked)["reason"] == "max_cost"
    assert worst.client.decide(user, max_cost_usd=0.0035, **asked)["status"] == "routed"
    assert worst.client.decide(user, max_cost_usd=0.0034, **asked)["reason"] == "max_cost"


def test_flood_never_crosses_the_limit(worst: Deployment) -> None:
    """However many queries come at once and whatever is settled meanwhile, no decision crosses the limit."""
    user = worst.client.user(0.1)
    asked = {"input_tokens": 500, "models": ["bounded", "open"]}
    ids = [worst.client.query(user, **asked, max_output_tokens=n % 50 or None)[0] for n in range(150)]
    first = [json.loads(worst.client.decisions(query_id)[0].value) for query_id in ids]
    paid = [decision for decision in first if decision["status"] == "routed"]
    for number, decision in enumerate(paid):
        # Some calls cost their whole bound, the others less.
        cost = decision["reservation_usd"] * (1 if number % 2 else 0.25)
        sent = worst.client.feedback(user, decision["query_id"], cost_usd=cost)
        ids.append(worst.client.query(user, **asked)[0])
    worst.client.committed(sent)
    decisions = [json.loads(worst.client.decisions(query_id)[0].value) for query_id in ids]

    budgets = [decision["budget"] for decision in decisions]
    assert all(budget["settled_usd"] + budget["reserved_usd"] <= 0.1 + 1e-12 for budget in budgets)
    assert min(budget["remaining_usd"] for budget in budgets) >= 0
    statuses = {(decision["status"], decision["reason"]) for decision in decisions}
    assert statuses == {("routed", None), ("rejected", "budget_exhausted")}
    spent = worst.client.budgets()[user]
    assert 0 < spent["settled_usd"] <= 0.1


def test_fallback_is_always_reject(worst: Deployment) -> None:
    """Without room the query is rejected, whatever PILOT_FALLBACK says."""
    decision = worst.client.decide(worst.client.user(0.0034), input_tokens=500)
    assert (decision["status"], decision["reason"]) == ("rejected", "budget_exhausted")
    assert excluded(decision) == {"bounded": "budget", "open": "unbounded"}


def test_cost_above_its_bound_is_counted(worst: Deployment) -> None:
    """A reported cost above the bound of its decision settles and is counted; one at the bound is not."""
    user = worst.client.user(1.0)
    one, two = (worst.client.route(user, "bounded", input_tokens=500) for _ in range(2))
    with worst.worker.counted("pilot_costs_above_bound_total", model="bounded"):
        worst.client.settle(user, one, cost_usd=0.0035)
        worst.client.settle(user, two, cost_usd=0.0036)
    account = worst.client.account(user)
    assert account is not None
    assert (account["settled_usd"], account["reserved_usd"]) == (0.0071, 0)
