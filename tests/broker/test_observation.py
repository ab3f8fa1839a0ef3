"""What a running worker shows of itself over HTTP: status document, page, metrics, and how it ended last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import MODELS
from tests.broker.support import EMBEDDING, Deployment, Row, WorkerProcess, deployed, until
from worker.kafka import connect, local
from worker.settings import Settings

DECISIONS = 6
LIMIT_USD = 1.0
SPENT_USD = 0.9
STALLED_S = 120.0


@pytest.fixture(scope="module")
def watched(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """A worker of its own after a few decisions of one limited user, one of them settled and rated."""
    with deployed(broker, tmp_path_factory.mktemp("watched"), MODELS) as deployment:
        client = deployment.client
        user = client.user(LIMIT_USD)
        ids = [client.route(user, "small") for _ in range(DECISIONS)]
        client.settle(user, ids[0], cost_usd=SPENT_USD, reward=1.0)
        yield deployment, user


def status(worker: WorkerProcess) -> Row:
    code, body = worker.get("/status.json")
    assert code == 200
    found: Row = json.loads(body)
    return found


def shown(worker: WorkerProcess, find: Callable[[Row], Any]) -> Any:
    """What the status shows, as soon as it shows it: some of it is looked at every few seconds."""
    return until(lambda: find(status(worker)))


def test_the_page_is_served(watched: tuple[Deployment, str]) -> None:
    """HTML at `/`, which asks for the document."""
    code, body = watched[0].worker.get("/")
    assert code == 200
    assert body.startswith("<!doctype html>")
    assert "/status.json" in body


def test_status_of_a_worker_at_work(watched: tuple[Deployment, str]) -> None:
    """Ready and live, its decisions, where the time went, and no partition behind."""
    worker = watched[0].worker
    found = shown(worker, lambda doc: doc if len(doc["partitions"]) == 8 else None)
    assert (found["live"]["ok"], found["ready"]["ok"]) == (True, True)
    assert found["since_start"]["decisions"] >= DECISIONS
    assert 0 < found["since_start"]["p50_s"] <= found["since_start"]["p99_s"]
    assert set(found["since_start"]["mean_stage_s"]) == {"wait", "encode", "decide", "write"}
    assert found["state"]["tables"]["pending"] >= DECISIONS
    assert found["state"]["recovery_remaining"] == 0


def test_budgets_are_seen_as_they_are_spent(watched: tuple[Deployment, str]) -> None:
    """The user's money of this window, settled and reserved."""
    deployment, user = watched
    fullest = shown(
        deployment.worker, lambda doc: next((u for u in doc["budgets"]["fullest"] if u["user_id"] == user), None)
    )
    row = deployment.client.budgets()[user]
    assert (fullest["limit_usd"], fullest["settled_usd"]) == (LIMIT_USD, SPENT_USD)
    assert fullest["reserved_usd"] == pytest.approx(row["reserved_usd"], abs=1e-9)
    assert deployment.worker.metric("pilot_budget_users_over_80_percent") == 1


def test_models_are_seen_as_they_learn(watched: tuple[Deployment, str]) -> None:
    """Every model of the catalog with its outlook; the rated one with what was expected and what came."""
    worker = watched[0].worker
    models = {row["model"]: row for row in shown(worker, lambda doc: doc["models"])}
    assert set(models) == {row["model"] for row in MODELS}
    assert models["off"]["expected_reward"] is None
    assert models["large"]["expected_reward"] is not None
    assert models["small"]["reward"]["observed"] == 1.0
    assert models["small"]["cost_usd"]["observed"] == pytest.approx(SPENT_USD)
    assert shown(worker, lambda doc: doc["state"]["replica_shards"]) == 1
    assert worker.metric("pilot_feedback_delay_seconds_count") == 1


def test_the_next_start_says_how_the_last_one_ended(deployment: Any, tmp_path: Path) -> None:
    """Killed without a word, then stopped; the first start knows of nothing."""
    port = local.free_port()

    def run() -> WorkerProcess:
        worker = WorkerProcess(deployment, tmp_path / "worker.log", http_port=port)
        until(lambda: worker.get("/status.json")[0] == 200, worker.log.name, 60.0)
        return worker

    worker = run()
    try:
        assert status(worker)["last_exit"] is None
        worker.kill()
        worker = run()
        assert (status(worker)["last_exit"]["code"], status(worker)["last_exit"]["reason"]) == (None, "killed")
        assert worker.metric("pilot_last_exit_info", code="", reason="killed") == 1
        assert worker.stop() == 0
        worker = run()
        assert (status(worker)["last_exit"]["code"], status(worker)["last_exit"]["reason"]) == (0, "ok")
    finally:
        worker.kill()


async def test_a_stall_is_told_before_it_ends_the_worker(deployment: Settings, tmp_path: Path) -> None:
    """Commits that do not happen while there is input make `/healthz` fail with the partition's name; then comes 71."""
    async with connect.producer(deployment) as producer:
        query = {"query_id": "q", "user_id": "ann", "embedding": EMBEDDING}
        await producer.send_and_wait(deployment.topic("queries"), json.dumps(query).encode(), b"ann")
    worker = WorkerProcess(deployment, tmp_path / "worker.log", ("tests.chaos.broken_worker", "no_commit"))
    try:
        told = until(
            lambda: found[1] if (found := worker.get("/healthz"))[0] == 503 else None, worker.log.name, STALLED_S
        )
        assert f"{deployment.topic('queries')}/" in told
        assert "has input and no commit for" in told
        assert worker.wait(STALLED_S) == 71
    finally:
        worker.kill()
