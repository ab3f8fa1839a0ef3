"""A broker of its own for this suite, because the suite kills it, and one run without faults to tamper with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.proxy import Proxy
from tests.chaos.run import Plan, Result, run
from tests.chaos.supervisor import LocalBroker

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A broker that may be killed."""
    broker = LocalBroker.start(tmp_path_factory.mktemp("chaos-kafka"))
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Proxy]]:
    """A broker of its own, and a proxy through which some of its clients reach it."""
    cluster = Cluster(tmp_path_factory.mktemp("proxied-kafka"))
    cluster.start()
    proxy = Proxy(cluster.nodes[0].proxy, cluster.nodes[0].proxied)
    try:
        yield cluster, proxy
    finally:
        proxy.close()
        cluster.stop()


@pytest.fixture(scope="session")
def calm(killable: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run in which nothing went wrong; early feedback waits so briefly that some is given up."""
    plan = Plan(seed=7, rate=40.0, pause_s=(0.0, 14.0), park_s=4.0)
    return asyncio.run(run(plan, killable, tmp_path_factory.mktemp("calm")))
