"""A worker whose wall clock is wrong: windows, expiry and retention go by the broker's clock."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.broker.support import Client, Deployment, deployed, unique, until
from tests.broker.test_contract_time import WINDOW_S, account, forget, fresh_window, next_window, seconds, spent
from worker.codecs import unpack_spend_key
from worker.kafka.compacted import latest

MODELS = [{"model": "only", "input_usd": 1.0, "output_usd": 2.0, "expected_output_tokens": 1000}]
DAYS_S = 30 * 86_400


@pytest.fixture(scope="module", params=[DAYS_S, -DAYS_S], ids=["a month ahead", "a month behind"])
def skewed(
    request: pytest.FixtureRequest, broker: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A worker a month off the broker's time, with short windows and lives."""
    settings = {"budget_window_s": WINDOW_S, "decision_ttl_s": 4, "park_s": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKEW_S", str(request.param))
        folder = tmp_path_factory.mktemp("skewed")
        with deployed(broker, folder, MODELS, 1, ("tests.broker.skewed_worker", "worker"), **settings) as deployment:
            yield deployment


def test_windows_are_the_brokers(skewed: Deployment) -> None:
    """Queries count in the window of their LogAppendTime, and a new window begins when the broker says so."""
    client: Client = skewed.client
    user = client.user(1.0)
    start = fresh_window(client, user)["window_start"]
    query_id, sent = client.query(user)
    decision = json.loads(client.decisions(query_id)[0].value)
    assert decision["budget"]["window_start"] == start
    assert 0 <= sent.timestamp / 1000 - seconds(start) < WINDOW_S
    client.settle(user, query_id, cost_usd=0.002)
    next_window(client, user, start)
    assert spent(skewed, user, start) == (0.002, 0)
    assert account(client, user)["settled_usd"] == 0


def test_closed_windows_are_dropped(skewed: Deployment) -> None:
    """Nobody sends anything any more, and the windows go all the same, a window's length after their end."""
    client = skewed.client
    user = client.user(1.0)
    decision = client.decide(user)
    topic, began = skewed.settings.changelog("spend"), seconds(decision["budget"]["window_start"])

    def kept() -> bool:
        records = client.run(latest(skewed.settings, topic))
        return any(unpack_spend_key(key)[0] == user for key, record in records.items() if record.value is not None)

    assert kept()
    until(lambda: not kept(), "the tombstone of the window")
    assert time.time() - began >= 2 * WINDOW_S


def test_decisions_live_by_the_brokers_time(skewed: Deployment) -> None:
    """A decision is neither forgotten at once nor kept for ever."""
    client, user = skewed.client, unique("user")
    query_id, sent = client.query(user)
    client.decisions(query_id)
    time.sleep(1.5)  # several sweeps
    client.query(user, query_id)
    first, again = client.decisions(query_id, 2)
    assert again.value == first.value
    forget(skewed, user, query_id)
    assert time.time() - sent.timestamp / 1000 >= 4


def test_early_feedback_waits_by_the_brokers_time(skewed: Deployment) -> None:
    """Feedback of an unknown query waits for a second, not for none and not for a month."""
    user = unique("user")
    sent = skewed.client.feedback(user, "unheard-of", reward=1)
    (letter,) = skewed.client.letters(sent)
    assert 1_000 <= letter.timestamp - sent.timestamp < 30_000


def test_outputs_are_dated_by_the_broker(skewed: Deployment) -> None:
    """A record dated a month off would be refused by the broker, or deleted at once by retention."""
    user = unique("user")
    query_id, sent = skewed.client.query(user)
    (record,) = skewed.client.decisions(query_id)
    assert abs(record.timestamp - sent.timestamp) < 30_000
