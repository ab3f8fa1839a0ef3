"""Models and budgets as they change under a running worker, and what the lists say of them.

The tests run in order on one worker, which starts without any model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.broker.support import EMBEDDING, ENCODER_LOADING, READY_S, Deployment, Row, deployed, unique, until

NO_MODELS = "no model is known: run `pilot models apply`"
MODELS = """\
models:
  - {model: cheap, input_usd_per_mtok: 1, output_usd_per_mtok: 2, request_usd: 0.001, expected_output_tokens: 100}
  - {model: dear, input_usd_per_mtok: 10, output_usd_per_mtok: 40, tags: [vision]}
"""


@pytest.fixture(scope="module")
def bare(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker that knows no model and no budget yet; the first test sees it so."""
    with deployed(broker, tmp_path_factory.mktemp("control")) as deployment:
        until(lambda: reasons(deployment) <= {NO_MODELS, ENCODER_LOADING}, "word of the missing models", READY_S)
        yield deployment


@pytest.fixture
def control(bare: Deployment) -> Deployment:
    """The same worker once it is ready with the models above."""
    if NO_MODELS in reasons(bare):
        (bare.folder / "models.yaml").write_text(MODELS)
        bare.pilot("models", "apply", "models.yaml")
        bare.worker.ready(for_text=False)
    return bare


def reasons(deployment: Deployment) -> set[str]:
    """Why the worker is not ready."""
    status, body = deployment.worker.get("/readyz")
    found = set(json.loads(body)["reasons"]) if status else {"nobody answers"}
    assert status in (0, 503 if found else 200)
    return found


def candidates(deployment: Deployment, **fields: object) -> dict[str, Row]:
    decision = deployment.client.decide(unique("user"), **fields)
    return {candidate["model"]: candidate for candidate in decision["candidates"]}


def test_without_models_not_ready(bare: Deployment) -> None:
    """A worker that knows no model is alive but not ready, says what to do, and rejects with `no_model`."""
    assert NO_MODELS in reasons(bare)
    assert bare.worker.get("/healthz") == (200, '{"ok": true, "reasons": []}')
    decision = bare.client.decide("ann")
    assert (decision["status"], decision["reason"]) == ("rejected", "no_model")
    assert decision["candidates"] == []
    assert decision["budget"] is None


def test_ready_with_models(control: Deployment) -> None:
    """As soon as models are applied the worker is ready and routes to them."""
    assert reasons(control) <= {ENCODER_LOADING}
    assert control.client.decide("ann")["status"] == "routed"


@pytest.mark.parametrize(
    ("topic", "key", "value"),
    [
        ("models", b"cheap", b"{"),
        ("models", b"cheap", b""),
        ("models", b"cheap", b'{"model": "cheap"}'),
        ("models", b"cheap", b'{"model": "cheap", "input_usd_per_mtok": "1", "output_usd_per_mtok": 2}'),
        ("models", b"cheap", b'{"model": "cheap", "input_usd_per_mtok": -1, "output_usd_per_mtok": 2}'),
        ("models", b"cheap", b'{"model": "dear", "input_usd_per_mtok": 1, "output_usd_per_mtok": 2}'),
        ("budgets", b"ann", b"[]"),
        ("budgets", b"ann", b'{"limit_usd": -1}'),
        ("budgets", b"ann", b'{"limit_usd": true}'),
        ("budgets", b"ann", b"{}"),
        ("budgets", b"\xff", b'{"limit_usd": 1}'),
    ],
)
def test_bad_control_records(control: Deployment, topic: str, key: bytes, value: bytes) -> None:
    """A bad record on a control topic is logged, counted and skipped; the last good value stays."""
    control.client.limit("ann", 3.0)
    before = {name: row["estimated_cost_usd"] for name, row in candidates(control).items()}

    with control.worker.counted("pilot_control_records_skipped_total", topic=topic):
        sent = control.client.send(topic, key, value)

    assert {name: row["estimated_cost_usd"] for name, row in candidates(control).items()} == before
    account = control.client.account("ann")
    assert account is not None
    assert account["limit_usd"] == 3.0
    assert any(topic in line and f"offset={sent.offset}" in line for line in control.worker.said().splitlines())
    control.client.limit("ann", None)


def test_price_change_acts_at_once(control: Deployment) -> None:
    """A new price is in the next estimates, and decisions made before settle at the prices of their time."""
    user = control.client.user(1.0)
    before = control.client.route(user, "dear")
    estimate = candidates(control)["dear"]["estimated_cost_usd"]

    control.client.model("dear", 20, 80, tags=["vision"])
    until(lambda: candidates(control)["dear"]["estimated_cost_usd"] > 1.5 * estimate)
    assert candidates(control)["dear"]["estimated_cost_usd"] == pytest.approx(2 * estimate, rel=1e-6)

    after = control.client.route(user, "dear")
    control.client.settle(user, before, input_tokens=100, output_tokens=100)
    assert _settled(control, user) == 0.005
    control.client.settle(user, after, input_tokens=100, output_tokens=100)
    assert _settled(control, user) == 0.015


def test_new_model_is_a_candidate(control: Deployment) -> None:
    """A model that is added can be chosen at once, with what nobody knows about it as uncertainty."""
    control.client.model("new", 0.5, 0.5)
    until(lambda: "new" in candidates(control))

    assert control.client.decide("ann", models=["new"])["model"] == "new"


def test_disabled_model_is_no_candidate(control: Deployment) -> None:
    """A disabled model disappears from the candidates, and comes back when it is enabled."""
    control.client.model("new", 0.5, 0.5, enabled=False)
    until(lambda: "new" not in candidates(control))
    assert control.client.decide("ann", models=["new"])["reason"] == "no_model"

    control.client.model("new", 0.5, 0.5)
    until(lambda: "new" in candidates(control))


def test_removed_model_settles_and_is_remembered(control: Deployment) -> None:
    """After a tombstone a model is gone, its open decisions still settle at their prices, and its sums return."""
    user = control.client.user(1.0)
    control.client.settle(user, control.client.route(user, "new"), reward=1)
    first, second = control.client.route(user, "new"), control.client.route(user, "new")
    control.client.send("models", b"new", None)
    until(lambda: "new" not in candidates(control))
    assert all(row["model"] != "new" for row in json.loads(control.pilot("models", "list", "--json")))

    control.client.settle(user, first, input_tokens=1000, output_tokens=3000)
    control.client.settle(user, second, model="new", cost_usd=0.003, reward=1)

    assert _settled(control, user) == 0.005
    control.client.model("new", 0.5, 0.5)
    until(lambda: "new" in candidates(control))
    learned = control.client.learned("new")
    assert (learned["observations"], learned["reward_sum"], learned["costs_settled"]) == (2, 2, 2)
    control.client.send("models", b"new", None)
    until(lambda: "new" not in candidates(control))


def test_tags_follow_the_record(control: Deployment) -> None:
    """Tags, context window and output limit are those of the model's last record."""
    control.client.model("cheap", 1, 2, request_usd=0.001, tags=["vision"], max_input_tokens=50)
    until(lambda: candidates(control, requires=["vision"])["cheap"]["excluded"] is None)
    assert candidates(control, input_tokens=51)["cheap"]["excluded"] == "context_window"
    control.client.model("cheap", 1, 2, request_usd=0.001)
    until(lambda: candidates(control, requires=["vision"])["cheap"]["excluded"] == "missing_tag")


def test_budget_of_everyone_else(control: Deployment) -> None:
    """`*` limits every user without an own record; an own record wins, its tombstone returns the user to `*`."""
    own, other = control.client.user(2.0), unique("user")
    control.client.send("budgets", b"*", b'{"limit_usd": 0.5}')
    until(lambda: control.client.account(other))

    assert _limit(control, other) == 0.5
    assert _limit(control, own) == 2.0
    control.client.limit(own, None, expect=0.5)

    control.client.send("budgets", b"*", None)
    until(lambda: control.client.account(other) is None)
    assert control.client.account(own) is None


def test_changed_budget_acts_on_the_same_window(control: Deployment) -> None:
    """A limit changed at run time holds from the next decision on, for what is settled and reserved already."""
    user = control.client.user(1.0)
    control.client.settle(user, control.client.route(user, "cheap"), cost_usd=0.25)
    control.client.limit(user, 0.125)

    decision = control.client.decide(user)
    assert (decision["reason"], decision["budget"]["remaining_usd"]) == ("budget_exhausted", -0.125)

    control.client.limit(user, 10.0)
    decision = control.client.decide(user)
    assert decision["status"] == "routed"
    assert decision["budget"]["settled_usd"] == 0.25


def test_limit_of_nothing(control: Deployment) -> None:
    """A limit of 0 is a limit: every priced model is over it."""
    user = control.client.user(0)
    decision = control.client.decide(user)
    assert decision["reason"] == "budget_exhausted"
    assert {candidate["excluded"] for candidate in decision["candidates"]} == {"budget"}


def test_models_list_joins_what_was_learned(control: Deployment) -> None:
    """`pilot models list --json` sums rewards, settled costs and tokens over all partitions, failures included."""
    control.client.model("listed", 3, 4)
    until(lambda: "listed" in candidates(control))
    users = [control.client.user(1.0) for _ in range(6)]
    for number, user in enumerate(users):
        query_id = control.client.route(user, "listed")
        sent = control.client.feedback(user, query_id, reward=number / 8, input_tokens=10, output_tokens=10 * number)
    failed = control.client.route(users[0], "listed")
    control.client.committed(sent)
    control.client.settle(users[0], failed, status="error")

    def learned() -> Row | None:
        rows: list[Row] = json.loads(control.pilot("models", "list", "--json"))
        (row,) = (row for row in rows if row["model"] == "listed")
        return row if row["costs_settled"] == 7 else None

    assert until(learned) == {
        "model": "listed",
        "input_usd_per_mtok": 3.0,
        "output_usd_per_mtok": 4.0,
        "request_usd": 0.0,
        "enabled": True,
        "observations": 6,
        "reward_sum": 1.875,
        "costs_settled": 7,
        "mean_output_tokens": 25.0,
    }


def test_budgets_list_joins_the_window(control: Deployment) -> None:
    """`pilot budgets list --json` has a row per budget record and per user with spend, with the limit in force."""
    idle, limited, free = control.client.user(5.0), control.client.user(1.0), unique("user")
    control.pilot("budgets", "set", "*", "0.5")
    until(lambda: control.client.account(free))
    queries = control.client.budgets()[limited]["queries"]
    paid, opened = control.client.route(limited, "cheap"), control.client.route(limited, "cheap")
    control.client.settle(limited, paid, cost_usd=0.25)
    account = control.client.account(limited)
    assert account is not None
    control.client.committed(control.client.query(free)[1])

    rows = json.loads(control.pilot("budgets", "list", "--json"))
    by_user = {row["user_id"]: row for row in rows}

    assert len(by_user) == len(rows)
    assert opened
    start = account["window_start"]
    assert by_user[limited] == {
        "user_id": limited, "limit_usd": 1.0, "window_start": start, "settled_usd": 0.25,
        "reserved_usd": account["reserved_usd"], "queries": queries + 3,
    }  # fmt: skip
    assert (by_user[idle]["limit_usd"], by_user[idle]["settled_usd"]) == (5.0, 0)
    assert by_user[free]["limit_usd"] == 0.5
    nulls = dict.fromkeys(("window_start", "settled_usd", "reserved_usd", "queries"))
    assert by_user["*"] == {"user_id": "*", "limit_usd": 0.5, **nulls}
    control.pilot("budgets", "unset", "*")
    until(lambda: control.client.account(free) is None)


def test_replayed_dead_letter_is_decided(control: Deployment) -> None:
    """A misplaced query that `dead-letters replay` puts back lies on its own partition and is decided there."""
    user, query_id = unique("user"), unique("q")
    value = json.dumps({"query_id": query_id, "user_id": user, "embedding": EMBEDDING}).encode()
    home = control.client.query(user)[1].partition
    sent = control.client.send("queries", user.encode(), value, partition=(home + 1) % 4)
    assert control.client.code(sent) == "wrong_partition"

    control.pilot("dead-letters", "replay", "--code", "wrong_partition")

    assert control.client.decisions(query_id)[0].partition == home


def _settled(deployment: Deployment, user: str) -> float:
    account = deployment.client.account(user)
    assert account is not None
    return float(account["settled_usd"])


def _limit(deployment: Deployment, user: str) -> float:
    account = deployment.client.account(user)
    assert account is not None
    return float(account["limit_usd"])
