"""Feedback in: what settles, what is learned, what waits, and what another model's answer does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.broker.support import NOBODY, Deployment, Row, unique, until

COUNTS = ("observations", "reward_sum", "costs_settled")


def money(account: Row | None) -> tuple[float, float, float]:
    """Settled, reserved and remaining."""
    assert account is not None
    return account["settled_usd"], account["reserved_usd"], account["remaining_usd"]


@contextmanager
def learning(
    standard: Deployment, model: str, observations: int = 0, reward: float = 0, costs: int = 0
) -> Iterator[None]:
    """What happens inside teaches the model exactly this."""
    before = standard.client.learned(model)
    yield
    after = standard.client.learned(model)
    gained = [after[name] - before[name] for name in COUNTS]
    assert gained == pytest.approx([observations, reward, costs])


def test_cost_settles_and_releases(standard: Deployment) -> None:
    """A cost settles to the nano-dollar and releases what the decision had reserved."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    assert money(standard.client.account(user))[1] > 0

    with (
        learning(standard, "small", costs=1),
        standard.worker.counted("pilot_feedback_total", part="money", outcome="applied"),
        standard.worker.counted("pilot_cost_usd_total", 0.00125, model="small", kind="settled"),
    ):
        standard.client.settle(user, query_id, cost_usd=0.00125)

    assert money(standard.client.account(user)) == (0.00125, 0, 0.99875)


def test_money_is_rounded_to_nano_dollars(standard: Deployment) -> None:
    """Amounts are rounded to 1e-9 USD when they come in, and sums of them are exact."""
    user = standard.client.user(1.0)
    for cost in (0.001, 0.002, 0.0000000014):
        standard.client.settle(user, standard.client.route(user, "small"), cost_usd=cost)

    assert money(standard.client.account(user)) == (0.003000001, 0, 0.996999999)


def test_parts_count_once_each(standard: Deployment) -> None:
    """Money, reward and tokens of one query may come one by one, in any order, and each is applied."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with learning(standard, "small", observations=1, reward=0.75, costs=1):
        for part, fields in {
            "reward": {"reward": 0.75},
            "money": {"cost_usd": 0.005},
            "tokens": {"input_tokens": 10, "output_tokens": 20},
        }.items():
            with standard.worker.counted("pilot_feedback_total", part=part, outcome="applied"):
                standard.client.settle(user, query_id, **fields)

    assert money(standard.client.account(user)) == (0.005, 0, 0.995)


def test_second_parts_are_duplicates(standard: Deployment) -> None:
    """A second cost, reward or count of tokens changes nothing and is counted as a duplicate of its part."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    standard.client.settle(user, query_id, cost_usd=0.005, reward=1, input_tokens=10, output_tokens=20)
    before = standard.client.account(user), standard.client.learned("small")

    for part, fields in {
        "money": {"cost_usd": 0.0025},
        "reward": {"reward": 0},
        "tokens": {"input_tokens": 1, "output_tokens": 1},
    }.items():
        with standard.worker.counted("pilot_feedback_total", part=part, outcome="duplicate"):
            standard.client.settle(user, query_id, **fields)
    with standard.worker.counted("pilot_feedback_total", 3, outcome="duplicate"):
        again = standard.client.settle(user, query_id, cost_usd=0.005, reward=1, input_tokens=10, output_tokens=20)

    assert (standard.client.account(user), standard.client.learned("small")) == before
    assert standard.client.set_aside(again) == []


def test_tokens_settle_at_list_prices(standard: Deployment) -> None:
    """Tokens without a cost settle at the prices stored with the decision, the price of the request included."""
    user = standard.client.user(1.0)

    standard.client.settle(user, standard.client.route(user, "large"), input_tokens=1000, output_tokens=2000)
    assert money(standard.client.account(user)) == (0.07, 0, 0.93)
    standard.client.settle(user, standard.client.route(user, "narrow"), input_tokens=1000, output_tokens=2000)
    assert money(standard.client.account(user)) == (0.074, 0, 0.926)


def test_cost_beats_tokens_of_the_same_record(standard: Deployment) -> None:
    """A record with cost and tokens settles the cost and learns the tokens."""
    user = standard.client.user(1.0)
    before = standard.client.learned("large")
    with standard.worker.counted("pilot_feedback_total", part="tokens", outcome="applied"):
        standard.client.settle(
            user, standard.client.route(user, "large"), cost_usd=0.005, input_tokens=1000, output_tokens=777
        )
    assert money(standard.client.account(user))[0] == 0.005
    assert standard.client.learned("large")["mean_output_tokens"] != before["mean_output_tokens"]


def test_cost_after_tokens_is_a_duplicate(standard: Deployment) -> None:
    """Money that settled by tokens does not settle again by a cost."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "large")
    standard.client.settle(user, query_id, input_tokens=1000, output_tokens=2000)

    with standard.worker.counted("pilot_feedback_total", part="money", outcome="duplicate"):
        standard.client.settle(user, query_id, cost_usd=0.005)

    assert money(standard.client.account(user))[0] == 0.07


def test_reward_alone_keeps_the_reservation(standard: Deployment) -> None:
    """A rating before the bill is learned at once, and what was reserved stays reserved until the money comes."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    before = standard.client.account(user)

    with learning(standard, "small", observations=1, reward=0.25):
        standard.client.settle(user, query_id, reward=0.25, source="judge", latency_ms=12.5)

    assert standard.client.account(user) == before


def test_rewards_raise_the_version_and_the_gauge(standard: Deployment) -> None:
    """What was learned reaches the decisions: observations in policy_version and in the model's gauge."""
    user = unique("user")
    before = int(standard.client.decide(user)["policy_version"].split(":")[1])
    standard.client.settle(user, standard.client.route(user, "small"), reward=1)
    total = standard.client.learned("small")["observations"]

    def fresh() -> bool:
        return int(standard.client.decide(user)["policy_version"].split(":")[1]) > before

    until(fresh)
    until(lambda: standard.worker.metric("pilot_model_observations", model="small") == total, "gauge of all rewards")


def test_early_feedback_waits_for_its_query(standard: Deployment) -> None:
    """Feedback before its query is parked, and applied with the decision: settled, learned, nothing reserved."""
    user, query_id = standard.client.user(1.0), unique("q")
    with (
        learning(standard, "small", observations=1, reward=1, costs=1),
        standard.worker.counted("pilot_feedback_total", part="money", outcome="applied"),
        standard.worker.counted("pilot_feedback_total", part="reward", outcome="applied"),
    ):
        with standard.worker.counted("pilot_feedback_total", 2, part="record", outcome="parked"):
            standard.client.settle(user, query_id, reward=1)
            standard.client.settle(user, query_id, cost_usd=0.00125)
        assert money(standard.client.account(user)) == (0, 0, 1)
        _, sent = standard.client.query(user, query_id, models=["small"])
        (record,) = standard.client.decisions(query_id)
        standard.client.committed(sent)

    assert money(json.loads(record.value)["budget"]) == (0.00125, 0, 0.99875)
    assert money(standard.client.account(user)) == (0.00125, 0, 0.99875)


def test_ninth_early_feedback_is_unknown(standard: Deployment) -> None:
    """Eight early records of a query wait, a ninth is a dead letter at once; of the eight the first of a kind wins."""
    user, query_id = standard.client.user(1.0), unique("q")
    waiting = [standard.client.feedback(user, query_id, cost_usd=number / 8000) for number in range(1, 9)]

    ninth = standard.client.feedback(user, query_id, reward=1)

    assert standard.client.code(ninth) == "unknown_query"
    with (
        learning(standard, "small", costs=1),
        standard.worker.counted("pilot_feedback_total", 7, part="money", outcome="duplicate"),
    ):
        decision = standard.client.decide(user, query_id, models=["small"])
        standard.client.committed(standard.client.query(user)[1])
    assert decision["budget"]["settled_usd"] == 0.000125
    assert not any(standard.client.set_aside(sent) for sent in waiting)


def test_early_feedback_to_a_rejected_query(standard: Deployment) -> None:
    """Feedback that waited for a query that is then rejected becomes a dead letter with its own origin."""
    user, query_id = unique("user"), unique("q")
    waiting = [standard.client.feedback(user, query_id, reward=reward) for reward in (0, 1)]
    standard.client.committed(waiting[-1])

    assert standard.client.decide(user, query_id, models=[NOBODY])["status"] == "rejected"

    assert [standard.client.code(sent) for sent in waiting] == ["not_routed", "not_routed"]
    assert [standard.client.letters(sent)[0].value for sent in waiting] == [sent.value for sent in waiting]


def test_feedback_to_a_rejected_query(standard: Deployment) -> None:
    """Feedback to a rejected query is a dead letter and changes nothing."""
    user = standard.client.user(1.0)
    query_id = standard.client.decide(user, models=[NOBODY])["query_id"]

    with standard.worker.counted("pilot_dead_letters_total", topic="feedback", code="not_routed"):
        sent = standard.client.feedback(user, query_id, cost_usd=0.005, reward=1)
        assert standard.client.code(sent) == "not_routed"

    assert money(standard.client.account(user)) == (0, 0, 1)


def test_substituted_model_at_its_cost(standard: Deployment) -> None:
    """When another model ran, its cost settles, the reservation goes, and cost and reward are learned for it."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with (
        learning(standard, "small"),
        learning(standard, "large", observations=1, reward=0.5, costs=1),
        standard.worker.counted("pilot_feedback_total", part="money", outcome="substituted"),
        standard.worker.counted("pilot_feedback_total", part="reward", outcome="substituted"),
        standard.worker.counted("pilot_cost_usd_total", 0.0025, model="large", kind="settled"),
    ):
        standard.client.settle(user, query_id, model="large", cost_usd=0.0025, reward=0.5)

    assert money(standard.client.account(user)) == (0.0025, 0, 0.9975)


@pytest.mark.parametrize(("model", "settled"), [("large", 0.07), ("narrow", 0.004), ("off", 0.003)])
def test_substituted_model_at_its_prices(standard: Deployment, model: str, settled: float) -> None:
    """Tokens of another model settle at that model's list prices, a disabled model's too."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with (
        learning(standard, "small"),
        learning(standard, model, costs=1),
        standard.worker.counted("pilot_feedback_total", part="tokens", outcome="substituted"),
    ):
        standard.client.settle(user, query_id, model=model, input_tokens=1000, output_tokens=2000)

    assert money(standard.client.account(user)) == (settled, 0, round(1 - settled, 9))


def test_naming_the_decided_model_is_no_substitution(standard: Deployment) -> None:
    """Feedback that names the model that was decided is applied as if it named none."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    with standard.worker.counted("pilot_feedback_total", part="money", outcome="applied"):
        standard.client.settle(user, query_id, model="small", cost_usd=0.0025)


def test_unknown_model_with_cost(standard: Deployment) -> None:
    """When a model ran that nobody knows, its cost settles, and nothing is learned for anybody."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with (
        learning(standard, "small"),
        standard.worker.counted("pilot_feedback_total", part="money", outcome="unknown_model"),
    ):
        sent = standard.client.settle(
            user, query_id, model=NOBODY, cost_usd=0.0025, reward=1, input_tokens=10, output_tokens=20
        )

    assert money(standard.client.account(user)) == (0.0025, 0, 0.9975)
    assert standard.client.set_aside(sent) == []


@pytest.mark.parametrize(
    "fields", [{"reward": 1}, {"input_tokens": 10, "output_tokens": 20}, {"status": "error"}, {"status": "timeout"}]
)
def test_unknown_model_without_cost(standard: Deployment, fields: Row) -> None:
    """Without a cost, feedback of a model that nobody knows is a dead letter, and the reservation stays."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    before = standard.client.account(user)

    with learning(standard, "small"):
        sent = standard.client.settle(user, query_id, model=NOBODY, **fields)
        assert standard.client.code(sent) == "unknown_model"

    assert standard.client.account(user) == before
    standard.client.settle(user, query_id, cost_usd=0.005)
    assert money(standard.client.account(user)) == (0.005, 0, 0.995)


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_failure_settles_at_nothing(standard: Deployment, status: str) -> None:
    """A failed call without a cost settles at 0 and releases the reservation; no reward is learned."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with (
        learning(standard, "small", costs=1),
        standard.worker.counted("pilot_model_failures_total", model="small", status=status),
    ):
        standard.client.settle(user, query_id, status=status)

    assert money(standard.client.account(user)) == (0, 0, 1)


def test_failure_settles_at_its_cost(standard: Deployment) -> None:
    """A failed call settles at the cost that is given, and its reward is learned if one is given."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")

    with learning(standard, "small", observations=1, reward=0, costs=1):
        standard.client.settle(user, query_id, status="error", cost_usd=0.00125, reward=0)

    assert money(standard.client.account(user)) == (0.00125, 0, 0.99875)


def test_failure_after_the_cost_is_a_duplicate(standard: Deployment) -> None:
    """A failure is a statement about money: after the money has settled it changes nothing."""
    user = standard.client.user(1.0)
    query_id = standard.client.route(user, "small")
    standard.client.settle(user, query_id, cost_usd=0.005)

    with standard.worker.counted("pilot_feedback_total", part="money", outcome="duplicate"):
        standard.client.settle(user, query_id, status="timeout")

    assert money(standard.client.account(user)) == (0.005, 0, 0.995)


def test_cost_above_the_reservation_overdraws(standard: Deployment) -> None:
    """What was really paid counts even above the limit: remaining is negative, and nothing more is routed."""
    user = standard.client.user(0.5)
    standard.client.settle(user, standard.client.route(user, "small"), status="error", cost_usd=0.75)

    decision = standard.client.decide(user)

    assert money(decision["budget"]) == (0.75, 0, -0.25)
    assert (decision["status"], decision["reason"]) == ("rejected", "budget_exhausted")
