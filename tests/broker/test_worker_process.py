"""The worker as a process: how it refuses to start, stops, is killed, and shares the work."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewPartitions

from tests.broker.support import Client, Row, WorkerProcess, unique, until
from worker.kafka import connect, local, topics
from worker.kafka.listing import budgets_with_spend
from worker.settings import Settings

REFUSED_S = 60.0
DRAINED_S = 15.0
SESSION_S = 4.0
DAY_S = 86_400
FLOOD = 300
ALL = {0, 1, 2, 3}

Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module", autouse=True)
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker without a broker, started first because it waits for a minute; the last test here is its own."""
    folder = tmp_path_factory.mktemp("lonely")
    settings = Settings(bootstrap_servers=f"127.0.0.1:{local.free_port()}", data_dir=folder / "state")
    worker = WorkerProcess(settings, folder / "worker.log")
    yield worker
    worker.kill()


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts workers of this test's deployment, with more settings; they end with the test."""
    started: list[WorkerProcess] = []

    def begin(**more: Any) -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / f"worker{len(started)}.log", **more))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()


class Team:
    """One deployment, its client, and as many workers as are asked for."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        asyncio.run(topics.create(settings, 4))
        self.settings = settings
        self.client = Client(settings)
        self.client.model("only", 1.0, 2.0)
        self.workers: dict[str, WorkerProcess] = {}
        self._folder = folder

    def ready(self, name: str, **more: Any) -> WorkerProcess:
        """The worker of this name, started with more settings if it does not run, once it is ready."""
        worker = self.workers.get(name)
        if worker is None or worker.process.poll() is not None:
            worker = WorkerProcess(self.settings, self._folder / f"{name}.log", worker_id=name, **more)
            self.workers[name] = worker
        worker.ready()
        return worker

    def lag(self) -> int:
        """Records of both source topics beyond the group's commits."""
        return self.client.run(self._lag())

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        self.client.close()

    async def _lag(self) -> int:
        names = [self.settings.topic("queries"), self.settings.topic("feedback")]
        async with connect.admin(self.settings) as admin:
            committed = await admin.list_consumer_group_offsets(self.settings.application_id)
        total = 0
        for name in names:
            async with connect.reader(self.settings, name) as reader:
                ends = await reader.end_offsets(list(reader.assignment()))
            total += sum(end - (committed[tp].offset if tp in committed else 0) for tp, end in ends.items())
        return total


@pytest.fixture(scope="module")
def team(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A deployment whose workers the tests start, stop and kill."""
    folder = tmp_path_factory.mktemp("team")
    settings = Settings(
        bootstrap_servers=broker, topic_prefix=f"{unique('t')}.", data_dir=folder / "state", session_timeout_s=SESSION_S
    )
    team = Team(settings, folder)
    yield team
    team.close()


def flood(team: Team, users: list[str]) -> list[str]:
    """Queries of several users, faster than they are decided; their ids."""
    ids = []
    for number in range(FLOOD):
        user = users[number % len(users)]
        ids.append(team.client.query(user)[0])
        if number % 3 == 0:
            team.client.feedback(user, ids[-1], cost_usd=0.001, reward=1)
    return ids


def decided(team: Team, ids: list[str]) -> list[Row]:
    """The decision of each query, which is the same in all its records."""
    found = []
    for query_id in ids:
        values = {record.value for record in team.client.decisions(query_id)}
        assert len(values) == 1
        found.append(json.loads(values.pop()))
    return found


def check_accounts(team: Team, users: list[str], ids: list[str]) -> None:
    """Each user has settled what was reported, and has reserved what the other decisions reserved."""
    decisions = decided(team, ids)
    until(lambda: team.lag() == 0, "lag 0")
    rows = team.client.budgets()
    for user in users:
        mine = [(n, decision) for n, decision in enumerate(decisions) if decision["user_id"] == user]
        open_ones = [decision["reservation_usd"] for n, decision in mine if n % 3]
        assert rows[user]["settled_usd"] == pytest.approx(0.001 * (len(mine) - len(open_ones)), abs=1e-9)
        assert rows[user]["reserved_usd"] == pytest.approx(sum(open_ones), abs=1e-9)
        assert rows[user]["queries"] == len(mine)


def partitions(worker: WorkerProcess) -> set[int]:
    """The partitions of `queries` whose lag this worker reports."""
    lines = worker.get("/metrics")[1].splitlines()
    mine = [line for line in lines if line.startswith("pilot_consumer_lag{") and 'topic="queries"' in line]
    return {int(line.split('partition="')[1].split('"')[0]) for line in mine}


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"policy": "luck"}, "PILOT_POLICY"),
        ({"surprise": "1"}, "PILOT_SURPRISE: unknown setting"),
        ({"reserve_quantile": "2"}, "PILOT_RESERVE_QUANTILE"),
        ({"topic_prefix": "no final dot"}, "PILOT_TOPIC_PREFIX"),
        ({"prior": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_wrong_settings(start: Start, more: Row, names: str) -> None:
    """A worker with a setting that cannot be used ends with 2 and one line that names it, before it asks a broker."""
    worker = start(bootstrap_servers="127.0.0.1:1", **more)

    assert worker.wait(REFUSED_S) == 2

    assert names in worker.said()
    assert len(worker.said().strip().splitlines()) == 1


def test_missing_topics(start: Start, settings: Settings) -> None:
    """Without its topics a worker ends with 1, names all of them and says what to do."""
    worker = start()

    assert worker.wait(REFUSED_S) == 1

    assert all(topic.name in worker.said() for topic in topics.declared(settings))
    assert "pilot topics create" in worker.said()


async def test_unequal_partitions(deployment: Settings, start: Start) -> None:
    """When a topic got more partitions than its siblings a worker ends with 1 and names it."""
    async with connect.admin(deployment) as admin:
        await admin.create_partitions({deployment.topic("feedback"): NewPartitions(6)})
    worker = start()

    assert await asyncio.to_thread(worker.wait, REFUSED_S) == 1

    assert f"{deployment.topic('feedback')}: 6 partitions, needs 4" in worker.said()


def test_stopped_before_the_broker_came(start: Start) -> None:
    """A worker that still waits for its broker stops at once on SIGTERM, with 0."""
    worker = start(bootstrap_servers=f"127.0.0.1:{local.free_port()}")
    until(worker.said, "word of a missing broker")

    worker.process.send_signal(signal.SIGTERM)

    assert worker.wait(DRAINED_S) == 0


def test_workers_share_and_take_over(team: Team) -> None:
    """A second worker takes half of the partitions, and all of them when the first one is stopped."""
    first, second = team.ready("first"), team.ready("second")
    until(lambda: sorted(map(len, (partitions(first), partitions(second)))) == [2, 2])
    assert partitions(first) | partitions(second) == ALL
    users = [unique("user") for _ in range(8)]
    ids = flood(team, users)

    assert first.stop() == 0

    until(lambda: partitions(second) == ALL)
    check_accounts(team, users, ids)
    assert second.stop() == 0


def test_sigterm_drains(team: Team) -> None:
    """A worker told to stop amid a flood finishes what it has begun and ends with 0; the next goes on from there."""
    worker, users = team.ready("first"), [team.client.user(1000.0) for _ in range(8)]
    ids = flood(team, users)
    worker.process.send_signal(signal.SIGTERM)

    assert worker.wait(DRAINED_S) == 0

    team.ready("first")
    decided(team, ids)
    assert all(len(team.client.seen(query_id)) == 1 for query_id in ids)
    until(lambda: team.lag() == 0, "lag 0")


def test_interrupt_drains_too(team: Team) -> None:
    """Ctrl-C finishes what was begun like SIGTERM, but the exit code says that it was an interruption."""
    worker, user = team.ready("first"), team.client.user(1000.0)
    ids = flood(team, [user])
    worker.process.send_signal(signal.SIGINT)

    assert worker.wait(DRAINED_S) == 130

    team.ready("first")
    decided(team, ids)
    assert all(len(team.client.seen(query_id)) == 1 for query_id in ids)


def test_kill_loses_nothing(team: Team) -> None:
    """After kill -9 amid a flood the same worker goes on: every query has one decision, every account is exact."""
    worker, users = team.ready("first"), [unique("user") for _ in range(8)]
    ids = flood(team, users)
    worker.kill()

    team.ready("first")

    check_accounts(team, users, ids)


def test_restart_remembers(team: Team) -> None:
    """Decisions, accounts and what was learned survive a restart: a repeat is still byte for byte the same."""
    worker, user = team.ready("first"), team.client.user(1.0)
    query_id = team.client.route(user, "only")
    team.client.settle(user, query_id, cost_usd=0.25, reward=1)
    before, observations = team.client.account(user), team.client.learned("only")["observations"]
    assert worker.stop() == 0

    team.ready("first")

    assert team.client.account(user) == before
    team.client.query(user, query_id)
    old, repeated = team.client.decisions(query_id, 2)
    assert repeated.value == old.value
    version = team.client.decide(user)["policy_version"]
    assert int(version.split(":")[1]) == observations


def test_other_window_length_is_a_new_budget(team: Team) -> None:
    """With another window length every budget begins anew, and what is still open settles in its own old window."""
    days = int(time.time() // DAY_S)
    longer = DAY_S * next(divisor for divisor in range(2, days + 1) if days % divisor == 0)  # begins today too
    worker, user = team.ready("first"), team.client.user(1.0)
    team.client.settle(user, team.client.route(user, "only"), cost_usd=0.25)
    late = team.client.route(user, "only")
    before = team.client.account(user)
    assert worker.stop() == 0

    worker = team.ready("first", budget_window_s=longer)
    team.client.settle(user, late, cost_usd=0.125)

    after = team.client.account(user)
    assert before is not None
    assert after is not None
    assert before["window_start"] == after["window_start"]
    assert before["window_end"] < after["window_end"]
    assert (after["settled_usd"], after["reserved_usd"]) == (0, 0)
    assert "budget windows had another length" in worker.said()
    listed = team.client.budgets()[user]
    assert (listed["settled_usd"], listed["reserved_usd"]) == (0.375, 0)
    longer_ones = team.settings.model_copy(update={"budget_window_s": longer})
    rows = team.client.run(budgets_with_spend(longer_ones))
    assert [row["settled_usd"] for row in rows if row["user_id"] == user] == [0]
    assert worker.stop() == 0


def test_other_window_offset_is_a_new_budget(team: Team) -> None:
    """With another offset every budget begins anew, and what is still open settles in its own old window."""
    worker, user = team.ready("first"), team.client.user(100.0)
    team.client.settle(user, team.client.route(user, "only"), cost_usd=0.25)
    late = team.client.route(user, "only")
    assert worker.stop() == 0

    worker = team.ready("first", budget_window_offset_s=1)
    team.client.settle(user, late, cost_usd=0.125)

    after = team.client.account(user)
    assert after is not None
    assert after["window_start"].endswith("T00:00:01.000Z")
    assert (after["settled_usd"], after["reserved_usd"]) == (0, 0)
    assert "budget windows had another length or offset" in worker.said()
    assert team.client.budgets()[user]["settled_usd"] == 0.375
    shifted = team.settings.model_copy(update={"budget_window_offset_s": 1})
    rows = team.client.run(budgets_with_spend(shifted))
    assert [row["settled_usd"] for row in rows if row["user_id"] == user] == [0]
    assert worker.stop() == 0


def test_frozen_worker_leaves(team: Team) -> None:
    """A worker that stood still for longer than its lease ends with 73 when it wakes: others may own its partitions."""
    worker = team.ready("first")
    worker.process.send_signal(signal.SIGSTOP)
    time.sleep(SESSION_S + 1)
    worker.process.send_signal(signal.SIGCONT)
    assert worker.wait(DRAINED_S) == 73


def test_no_broker_for_a_minute(lonely: WorkerProcess) -> None:
    """Without a broker a worker ends with 1 after a minute, and says where it looked."""
    assert lonely.wait(120) == 1
    servers = lonely.settings.bootstrap_servers
    assert f"pilot: no Kafka broker answers at {servers} (PILOT_BOOTSTRAP_SERVERS)" in lonely.said()


def test_sigterm_without_a_broker(tmp_path: Path) -> None:
    """A worker whose broker is gone for good still leaves in time when it is told to stop."""
    data_dir, log = tmp_path / "kafka", tmp_path / "worker.log"
    settings = Settings(bootstrap_servers=local.start(0, data_dir), data_dir=tmp_path / "state")
    try:
        asyncio.run(topics.create(settings))
        worker = WorkerProcess(settings, log)
        until(lambda: "Worker ready" in log.read_text(), "recovery")
    finally:
        local.stop(data_dir)
    worker.process.send_signal(signal.SIGTERM)
    try:
        assert worker.wait(DRAINED_S) == 0
    finally:
        worker.kill()
