"""A broker that is slow, out of reach for one worker, or away for all: workers say so, go on, and lose nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.support import WorkerProcess, until
from tests.chaos.cluster import Cluster
from tests.chaos.proxy import Proxy
from tests.chaos.team import SESSION_S, Team

DELAY_S = 0.05
AWAY_S = SESSION_S + 4.0
SAFE_EXITS = {None, 71, 72, 73}  # whoever was cut off goes on, or leaves with its code


@pytest.fixture
def team(proxied: tuple[Cluster, Proxy], tmp_path: Path) -> Iterator[Team]:
    team = Team(proxied[0].address, tmp_path)
    yield team
    team.close()


def silent(worker: WorkerProcess) -> bool:
    """Whether `/readyz` says that the broker is the reason."""
    status, body = worker.get("/readyz")
    return status == 503 and any("the broker has not answered" in reason for reason in json.loads(body)["reasons"])


def ready(worker: WorkerProcess) -> bool:
    return worker.get("/readyz")[0] == 200


def test_slow_broker(proxied: tuple[Cluster, Proxy], team: Team) -> None:
    """With a long way to the broker everything takes longer, and nothing else."""
    _, proxy = proxied
    proxy.delay_s = DELAY_S
    try:
        worker = team.start("far", bootstrap_servers=proxy.address)
        team.ask(40)
        team.check()
    finally:
        proxy.delay_s = 0.0
    assert worker.process.poll() is None


def test_cut_off_worker(proxied: tuple[Cluster, Proxy], team: Team) -> None:
    """Who cannot reach the broker says so and writes nothing; the other takes over, and both share again afterwards."""
    _, proxy = proxied
    near, far = team.start("near"), team.start("far", bootstrap_servers=proxy.address)
    team.decided(team.ask(16))
    proxy.cut()
    try:
        asked = team.ask(40)
        until(lambda: silent(far), "a word of the silent broker")
        team.decided(asked)
    finally:
        proxy.mend()
    until(lambda: far.process.poll() is not None or ready(far), "return of the worker")
    assert far.process.poll() in SAFE_EXITS
    if far.process.poll() is not None:
        team.start("far", bootstrap_servers=proxy.address)
    team.ask(16)
    team.check()
    assert near.process.poll() is None


def test_broker_away(proxied: tuple[Cluster, Proxy], team: Team) -> None:
    """A broker is killed amid traffic and comes back when every session has expired: all that was asked is decided."""
    cluster, _ = proxied
    worker = team.start("only")
    team.ask(40)
    cluster.kill(cluster.nodes[0])
    gone = time.monotonic()
    until(lambda: silent(worker), "a word of the silent broker")
    until(lambda: time.monotonic() > gone + AWAY_S, "the end of the outage")
    cluster.restart(cluster.nodes[0])
    until(lambda: worker.process.poll() is not None or ready(worker), "return of the worker", 60.0)
    assert worker.process.poll() in SAFE_EXITS
    if worker.process.poll() is not None:
        team.start("only")
    team.ask(16)
    team.check()
