"""Fixtures of the stream shell: tables of a real Faust app that was never started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.stream.doubles import Notebook, held_tables, settings
from worker.settings import Settings
from worker.stream.batch import Journal
from worker.stream.state import State
from worker.stream.tables import Tables


@pytest.fixture
def configured(tmp_path: Path) -> Settings:
    return settings(data_dir=tmp_path)


@pytest.fixture
async def tables(configured: Settings) -> Tables:
    return held_tables(configured)


@pytest.fixture
async def state(tables: Tables) -> State:
    return State(tables.load_pending, tables.load_spend, tables.load_shard)


@pytest.fixture
async def journal(state: State) -> Journal:
    return Journal(state)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    """Replace `time` in a module of the worker: `clock(module)`."""
    found = Clock()

    def install(*modules: Any) -> Clock:
        for module in modules:
            monkeypatch.setattr(module.time, "monotonic", found.monotonic)
        return found

    return install
