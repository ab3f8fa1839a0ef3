"""Preset `paper` on the wire: PILOT as published, in two buckets of traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.support import Deployment, deployed, unique
from worker.core.paper import teaches

SHARE = 0.5
MODELS = [{"model": "a", "input_usd": 1.0, "output_usd": 2.0}, {"model": "b", "input_usd": 2.0, "output_usd": 3.0}]


@pytest.fixture(scope="module")
def paper(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker with preset `paper`, half of whose queries learn."""
    with deployed(broker, tmp_path_factory.mktemp("paper"), MODELS, preset="paper", learning_share=SHARE) as deployment:
        yield deployment


def test_policy_and_reservation_of_the_preset(paper: Deployment) -> None:
    """The preset brings `zcl` and reserves the expected cost, which is that of the mean output tokens."""
    decision = paper.client.decide(paper.client.user(1.0), models=["a"], input_tokens=100)
    assert decision["policy"] == "zcl"
    assert decision["reservation_usd"] == decision["estimated_cost_usd"] == pytest.approx((100 + 2 * 256) / 1e6)


def test_only_the_learning_bucket_learns_rewards(paper: Deployment) -> None:
    """Rewards of deployment traffic are settled but not learned; costs and tokens of all traffic are."""
    user, ids = unique("user"), [unique("q") for _ in range(20)]
    before = paper.client.learned("a")
    for query_id in ids:
        paper.client.route(user, "a", query_id=query_id)
        sent = paper.client.feedback(user, query_id, reward=1, cost_usd=0.001)
    paper.client.committed(sent)

    after = paper.client.learned("a")

    learning = sum(teaches(query_id, SHARE) for query_id in ids)
    assert 0 < learning < len(ids)
    assert after["observations"] - before["observations"] == learning
    assert after["costs_settled"] - before["costs_settled"] == len(ids)


def test_early_rewards_of_the_deployment_bucket_are_not_learned(paper: Deployment) -> None:
    """The bucket decides also where the feedback came before its query."""
    user, ids = unique("user"), [unique("q") for _ in range(20)]
    before = paper.client.learned("a")["observations"]
    waiting = [paper.client.feedback(user, query_id, reward=1) for query_id in ids]
    paper.client.committed(waiting[-1])
    for query_id in ids:
        _, sent = paper.client.query(user, query_id, models=["a"])
    paper.client.committed(sent)

    assert paper.client.learned("a")["observations"] - before == sum(teaches(query_id, SHARE) for query_id in ids)


def test_the_limit_holds_in_both_buckets(paper: Deployment) -> None:
    """A query that the user cannot pay is rejected, whether it would learn or not."""
    user = paper.client.user(1e-9)
    for learns in (True, False):
        query_id = next(query_id for query_id in iter(lambda: unique("q"), None) if teaches(query_id, SHARE) is learns)
        decision = paper.client.decide(user, query_id)
        assert (decision["status"], decision["reason"]) == ("rejected", "budget_exhausted")
