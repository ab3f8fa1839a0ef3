"""Tables on disk: a killed worker goes on from what it left, and what it cannot use it reads from the changelogs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.broker.support import WorkerProcess
from tests.chaos.team import PARTITIONS, Team
from worker.kafka import connect, logs, topics
from worker.settings import Settings

CLAIMS = 3 * PARTITIONS  # each owner writes one empty record to each changelog partition


@pytest.fixture(scope="module")
def team(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A worker that was killed after it had decided and settled something."""
    team = Team(broker, tmp_path_factory.mktemp("team"))
    try:
        worker = team.start("one", store="rocksdb")
        team.ask(32)
        team.check()
        worker.kill()
        yield team
    finally:
        team.close()


def again(team: Team) -> WorkerProcess:
    """The worker started anew; it knows every old query and goes on with every budget."""
    worker = team.start("one", store="rocksdb")
    for number, query_id in enumerate(team.asked[:8]):
        before = len(team.client.seen(query_id))
        team.client.query(team.users[number], query_id)
        team.client.decisions(query_id, before + 1)
    team.ask(8)
    team.check()
    return worker


def read_at_start(worker: WorkerProcess) -> int:
    """How many changelog records the last start had to read."""
    return int(re.findall(r"records_to_read=(\d+)", worker.said())[-1])


def test_killed_worker_goes_on_from_its_disk(team: Team) -> None:
    """After kill -9 nothing but the new claims is read from the changelogs, and the state is as it was."""
    worker = again(team)
    assert read_at_start(worker) == CLAIMS
    worker.kill()


def test_damaged_folder_is_read_again(team: Team) -> None:
    """A partition whose files are damaged comes from the changelogs, the others from the disk: the state is right."""
    store = Settings(**{**team.settings.model_dump(), "worker_id": "one"}).worker_dir / "store"
    for manifest in (store / "1").glob("MANIFEST-*"):
        manifest.write_bytes(b"something else")
    worker = again(team)
    assert worker.said().count("local state is damaged: it is read again") == 1
    assert read_at_start(worker) > CLAIMS
    worker.kill()


async def test_topic_made_anew_is_another(settings: Settings) -> None:
    """A changelog that was deleted and created again under its name has another id, and begins again."""
    await topics.create(settings, PARTITIONS)
    changelogs = {table: settings.changelog(table) for table in topics.TABLES}
    before = await logs.look(settings, changelogs, [0, 3])
    async with connect.producer(settings) as producer:
        await producer.send_and_wait(changelogs["pending"], b"v", b"k", partition=3)
    after = await logs.look(settings, changelogs, [0, 3])
    assert after[0] == before[0]
    assert after[3]["pending"] == before[3]["pending"]._replace(end=1)

    async with connect.admin(settings) as admin:
        await admin.delete_topics(list(changelogs.values()))
        # The broker itself hears of it a moment later.
        while set(changelogs.values()) & set(await admin.list_topics()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    await topics.create(settings, PARTITIONS)
    anew = await logs.look(settings, changelogs, [3])
    assert anew[3]["pending"].end == 0
    ids = {log.topic_id for found in (after[3], anew[3]) for log in found.values()}
    assert len(ids) == 2 * len(changelogs)
    assert "" not in ids
