"""Real workers on a real broker, each kind of fault once, and a verdict over everything they left behind.

A run without faults is judged in `test_oracle.py`.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos.faults import DRAWN, KINDS, draw
from tests.chaos.run import Plan, run
from tests.chaos.supervisor import LocalBroker

PAUSE_S = (1.0, 4.0)
INSIDE = ("within", "kill", "resend", "between", "terminate")
AROUND = ("join", "freeze", "broker", "pause", "leave", "scale")
LONG = ("outage",)  # only in long runs: `make chaos`
ELSEWHERE = ("full",)  # test_full_disk.py


@pytest.mark.parametrize(
    "plan",
    [
        Plan(11, INSIDE, rate=25.0, pause_s=PAUSE_S, reserve="worst_case"),
        Plan(12, AROUND, rate=25.0, pause_s=PAUSE_S, park_s=20.0, store="rocksdb"),
    ],
    ids=["inside", "around"],
)
def test_exact(plan: Plan, killable: LocalBroker, tmp_path: Path) -> None:
    """Whatever dies, freezes, joins or leaves: every query is decided once and every feedback counts once."""
    result = asyncio.run(run(plan, killable, tmp_path))
    assert result.violations == []
    assert result.notes == []
    assert None not in result.recovered


def test_every_kind_is_tried() -> None:
    """The fixed schedules of this suite hold every kind of fault there is, but the long and the special ones."""
    assert set(INSIDE) | set(AROUND) | set(LONG) | set(ELSEWHERE) == set(KINDS)


def test_draw_tries_everything_before_it_repeats() -> None:
    """A drawn schedule holds each kind once before any comes a second time, and the seed alone decides it."""
    drawn = draw(random.Random(3), 2 * len(DRAWN))
    assert set(drawn[: len(DRAWN)]) == set(drawn[len(DRAWN) :]) == set(DRAWN)
    assert drawn == draw(random.Random(3), 2 * len(DRAWN))
