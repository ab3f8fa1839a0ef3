"""One real broker for the whole session, and a deployment of its own for every test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.support import Deployment, deployed
from worker.kafka import local, topics
from worker.kafka.distribution import exclusive
from worker.settings import Settings

HERE = Path(__file__).parent
MODELS = (
    {"model": "large", "input_usd": 10.0, "output_usd": 30.0, "tags": ["fast", "vision"], "max_output_tokens": 1000},
    {"model": "narrow", "input_usd": 1.0, "output_usd": 1.0, "request_usd": 0.001, "max_input_tokens": 100},
    {"model": "off", "input_usd": 1.0, "output_usd": 1.0, "enabled": False},
    {"model": "small", "input_usd": 1.0, "output_usd": 2.0, "tags": ["fast"]},
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address of a broker that all processes of a session share; the last to leave stops it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    data_dir, users, lock = shared / "kafka", shared / "kafka-users", shared / "kafka-lock"
    users.mkdir(exist_ok=True)
    mine = users / str(os.getpid())
    with exclusive(lock):
        address = _start(data_dir)
        mine.touch()
    try:
        yield address
    finally:
        with exclusive(lock):
            mine.unlink()
            if not any(users.iterdir()):
                local.stop(data_dir)


def _start(data_dir: Path) -> str:
    """By the command, so that the broker is no child of the process that happens to be first."""
    command = [sys.executable, "-m", "worker.cli", "kafka", "start", "--port", "0", "--data-dir", str(data_dir)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def settings(broker: str, prefix: str, tmp_path: Path) -> Settings:
    """Settings of a deployment without topics."""
    return Settings(bootstrap_servers=broker, topic_prefix=prefix, data_dir=tmp_path / "state")


@pytest.fixture
async def deployment(settings: Settings) -> Settings:
    """Settings of a deployment with all its topics."""
    await topics.create(settings)
    return settings


@pytest.fixture(scope="session")
def standard(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running worker with default settings and the models above; tests use users of their own."""
    with deployed(broker, tmp_path_factory.mktemp("standard"), MODELS) as deployment:
        yield deployment
