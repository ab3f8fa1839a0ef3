"""Three brokers, one of which is killed and comes back: with two copies in sync nothing stops and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, Node
from tests.chaos.team import PATIENCE_S, Team
from worker.kafka import connect
from worker.settings import Settings


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers, each with a copy of everything."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), 3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


async def _leaders(settings: Settings) -> Counter[int]:
    """How many partitions of this deployment each broker leads."""
    names = [settings.topic(topic) for topic in ("queries", "feedback", "decisions")]
    async with connect.admin(settings) as admin:
        described = await admin.describe_topics(names)
    return Counter(part["leader"] for topic in described for part in topic["partitions"])


def busiest(cluster: Cluster, settings: Settings) -> Node:
    ((number, _),) = asyncio.run(_leaders(settings)).most_common(1)
    return cluster.nodes[number - 1]


@pytest.fixture
def team(cluster: Cluster, tmp_path: Path) -> Iterator[Team]:
    team = Team(cluster.address, tmp_path, replication=3)
    yield team
    team.close()


def test_one_of_three_brokers_dies(cluster: Cluster, team: Team) -> None:
    """While the busiest broker is dead, and when it leads its partitions again, all is decided once and paid once."""
    worker = team.start("only")
    team.decided(team.ask(16))
    before = asyncio.run(_leaders(team.settings))
    node = busiest(cluster, team.settings)
    asked = team.ask(16)
    cluster.kill(node)
    team.decided(asked)
    team.decided(team.ask(40))
    assert asyncio.run(_leaders(team.settings)) != before
    assert worker.process.poll() is None
    cluster.restart(node)
    deadline = time.monotonic() + PATIENCE_S
    while asyncio.run(_leaders(team.settings)) != before:  # the controller gives the old ones their places back
        assert time.monotonic() < deadline, "the leaders did not move"
        team.ask(8)
    team.ask(16)
    team.check()
    assert "NotLeaderForPartitionError" in worker.said()  # refused by a living broker, it asked anew
    assert worker.process.poll() is None
