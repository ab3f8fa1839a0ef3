"""What time does: budget windows roll over, decisions are forgotten, early feedback gives up waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.broker.support import EMBEDDING, Client, Deployment, Row, deployed, unique, until
from worker.codecs import pack_pending_key
from worker.kafka.compacted import latest
from worker.kafka.spending import read_spend
from worker.money import to_usd

WINDOW_S, OFFSET_S = 5, 1
MODELS = [{"model": "only", "input_usd": 1.0, "output_usd": 2.0, "expected_output_tokens": 1000}]
HEADERS = [("traceparent", b"00-abc")]


@pytest.fixture(scope="module")
def rolling(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker whose budget windows last five seconds and start a second after the multiples of five."""
    settings = {"budget_window_s": WINDOW_S, "budget_window_offset_s": OFFSET_S}
    with deployed(broker, tmp_path_factory.mktemp("rolling"), MODELS, **settings) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def brief(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker that forgets decisions after two seconds and lets early feedback wait for one."""
    settings = {"decision_ttl_s": 2, "park_s": 1}
    with deployed(broker, tmp_path_factory.mktemp("brief"), MODELS, **settings) as deployment:
        yield deployment


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def account(client: Client, user: str) -> Row:
    found = client.account(user)
    assert found is not None
    return found


def fresh_window(client: Client, user: str) -> Row:
    """The user's account early in a window: what follows within three seconds lies in it too."""
    return until(lambda: found if time.time() - seconds((found := account(client, user))["window_start"]) < 2 else None)


def next_window(client: Client, user: str, before: str) -> Row:
    """The user's account in a later window than this one."""
    return until(lambda: found if (found := account(client, user))["window_start"] > before else None)


def spent(deployment: Deployment, user: str, window: str) -> tuple[float, float]:
    """What the changelog says is settled and reserved in the window of this start."""
    spend = deployment.client.run(read_spend(deployment.settings, round(seconds(window))))[user]
    return to_usd(spend.settled), to_usd(spend.reserved)


def forget(brief: Deployment, user: str, query_id: str) -> None:
    """Wait until nothing of the query is in the worker's state any more."""
    topic, key = brief.settings.changelog("pending"), pack_pending_key(user, query_id)
    until(lambda: key not in brief.client.run(latest(brief.settings, topic)), f"{query_id} to be forgotten")


def test_window_is_that_of_the_broker_time(rolling: Deployment) -> None:
    """Windows begin at multiples of their length plus the offset, and hold their queries' LogAppendTime."""
    user = rolling.client.user(1.0)
    for _ in range(4):
        query_id, sent = rolling.client.query(user)
        budget = json.loads(rolling.client.decisions(query_id)[0].value)["budget"]
        start, end = seconds(budget["window_start"]), seconds(budget["window_end"])
        assert start % WINDOW_S == OFFSET_S
        assert end - start == WINDOW_S
        assert start <= sent.timestamp / 1000 < end
        time.sleep(WINDOW_S / 4)


def test_new_window_is_a_new_budget(rolling: Deployment) -> None:
    """A user whose budget is used up is rejected until the next window, which starts from nothing."""
    user = rolling.client.user(0.05)
    start = fresh_window(rolling.client, user)["window_start"]
    rolling.client.settle(user, rolling.client.route(user, "only"), status="error", cost_usd=0.05)
    rejected = rolling.client.decide(user)
    assert (rejected["reason"], rejected["budget"]["window_start"]) == ("budget_exhausted", start)

    later = next_window(rolling.client, user, start)

    assert (later["settled_usd"], later["reserved_usd"], later["remaining_usd"]) == (0, 0, 0.05)
    assert rolling.client.decide(user)["status"] == "routed"


def test_feedback_settles_in_the_window_of_its_query(rolling: Deployment) -> None:
    """A bill that comes windows later is money of the query's window, and releases the reservation there."""
    user = rolling.client.user(1.0)
    decision = rolling.client.decide(user)
    start = decision["budget"]["window_start"]
    assert next_window(rolling.client, user, start)["reserved_usd"] == 0
    assert spent(rolling, user, start) == (0, decision["reservation_usd"])

    rolling.client.settle(user, decision["query_id"], cost_usd=0.002)

    assert spent(rolling, user, start) == (0.002, 0)
    assert account(rolling.client, user)["settled_usd"] == 0


def test_repeated_query_stays_in_its_window(rolling: Deployment) -> None:
    """A query repeated in a later window is the old decision and reserves nothing there."""
    user = rolling.client.user(1.0)
    decision = rolling.client.decide(user)
    next_window(rolling.client, user, decision["budget"]["window_start"])

    rolling.client.query(user, decision["query_id"])

    first, second = rolling.client.decisions(decision["query_id"], 2)
    assert second.value == first.value
    assert account(rolling.client, user)["reserved_usd"] == 0


def test_early_feedback_settles_in_the_window_of_its_query(rolling: Deployment) -> None:
    """Feedback that came in an earlier window than its query is money of the query's window."""
    user, query_id = rolling.client.user(1.0), unique("q")
    rolling.client.settle(user, query_id, cost_usd=0.002)
    next_window(rolling.client, user, account(rolling.client, user)["window_start"])

    budget = rolling.client.decide(user, query_id)["budget"]

    assert (budget["settled_usd"], budget["reserved_usd"]) == (0.002, 0)
    assert spent(rolling, user, budget["window_start"]) == (0.002, 0)


def test_feedback_of_an_unknown_query_gives_up(brief: Deployment) -> None:
    """Feedback whose query does not come is a dead letter `unknown_query` after PILOT_PARK_S, as it was received."""
    user, query_id = brief.client.user(1.0), unique("q")
    value = json.dumps({"query_id": query_id, "user_id": user, "cost_usd": 0.002}).encode()
    with (
        brief.worker.counted("pilot_feedback_total", part="record", outcome="parked"),
        brief.worker.counted("pilot_dead_letters_total", topic="feedback", code="unknown_query"),
    ):
        sent = brief.client.send("feedback", user.encode(), value, HEADERS)
        (letter,) = brief.client.letters(sent)

    assert dict(letter.headers)["pilot.error.code"] == b"unknown_query"
    assert (letter.key, letter.value) == (user.encode(), value)
    assert list(letter.headers[:1]) == HEADERS
    assert int(dict(letter.headers)["pilot.source.timestamp"]) == sent.timestamp
    assert letter.timestamp - sent.timestamp >= 1000

    budget = brief.client.decide(user, query_id)["budget"]
    assert budget["settled_usd"] == 0


def test_every_record_that_waited_gives_up(brief: Deployment) -> None:
    """Several records that waited for one query become a dead letter each."""
    user, query_id = unique("user"), unique("q")
    waiting = [brief.client.feedback(user, query_id, reward=number / 4) for number in range(4)]
    assert [brief.client.code(sent) for sent in waiting] == ["unknown_query"] * 4
    forget(brief, user, query_id)
    assert [len(brief.client.set_aside(sent)) for sent in waiting] == [1] * 4


def test_forgotten_decision_keeps_its_reservation(brief: Deployment) -> None:
    """What a forgotten decision had reserved stays reserved in its window; its feedback is of an unknown query."""
    user = brief.client.user(1.0)
    decision = brief.client.decide(user)
    forget(brief, user, decision["query_id"])
    assert account(brief.client, user)["reserved_usd"] == decision["reservation_usd"]

    late = brief.client.feedback(user, decision["query_id"], cost_usd=0.002, reward=1)

    assert brief.client.code(late) == "unknown_query"
    after = account(brief.client, user)
    assert (after["settled_usd"], after["reserved_usd"]) == (0, decision["reservation_usd"])


def test_forgotten_query_is_decided_anew(brief: Deployment) -> None:
    """A query repeated after PILOT_DECISION_TTL_S is a new query, with a reservation of its own."""
    user = brief.client.user(1.0)
    first = brief.client.decide(user)
    query_id = first["query_id"]
    forget(brief, user, query_id)

    _, sent = brief.client.query(user, query_id)

    second = json.loads(brief.client.decisions(query_id, 2)[1].value)
    assert second["source"] == {"partition": sent.partition, "offset": sent.offset} != first["source"]
    assert second["budget"]["reserved_usd"] == pytest.approx(
        first["reservation_usd"] + second["reservation_usd"], abs=1e-9
    )


def test_settled_decision_is_forgotten(brief: Deployment) -> None:
    """A settled and rated decision is forgotten too; what it cost stays settled in its window."""
    user = brief.client.user(1.0)
    query_id = brief.client.route(user, "only")
    brief.client.settle(user, query_id, cost_usd=0.002, reward=1)
    forget(brief, user, query_id)
    after = account(brief.client, user)
    assert (after["settled_usd"], after["reserved_usd"]) == (0.002, 0)


def test_late_rejections_are_forgotten(brief: Deployment) -> None:
    """A remembered rejection is forgotten like a decision: the query may come again and be routed."""
    user, query_id = unique("user"), unique("q")
    brief.client.query(user, query_id, models=["nobody"], embedding=EMBEDDING)
    brief.client.decisions(query_id)
    forget(brief, user, query_id)
    brief.client.query(user, query_id)
    assert json.loads(brief.client.decisions(query_id, 2)[1].value)["status"] == "routed"
