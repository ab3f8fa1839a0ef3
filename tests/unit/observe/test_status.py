"""The status document: what it says, and that it stays bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.observe import records as r
from worker.observe.history import STEP_S, STEPS
from worker.observe.prometheus import PrometheusObserver
from worker.observe.status import Status, page
from worker.observe.vitals import About, ArmVitals, BudgetUse, UserBudget, Vitals

ROUTED = r.DecisionSent(
    "pacing", "routed", "small", None, r.Stages(0.004, 0, 0, 0.004), 1_000_000, 4_000_000, 0.6, 0.8, 0.1, True
)
REJECTED = r.DecisionSent("pacing", "rejected", None, "budget_exhausted", r.Stages(0, 0, 0, 0.004))


class Watched:
    """A status over real metrics, with a clock that only moves when told."""

    def __init__(self) -> None:
        self.now, self.reasons = 1_000.0, ["no model is known"]
        self.metrics = PrometheusObserver()
        self.vitals = Vitals(
            BudgetUse(900, 200, 0.5, users=1, limit=10, settled=2, reserved=4, fullest=(UserBudget("u", 10, 2, 4),)),
            (ArmVitals("small", True, 1.0, 2.0, 0.0, 0.6, 0.1, 0.001), ArmVitals("never", True, 9.0, 9.0, 0.0)),
        )
        about = About("w", "g", "1", "pacing", "default", "quantile", "fp", 400.0)
        self.status = Status(
            self.metrics, lambda: self.vitals, live=list, ready=lambda: self.reasons, about=about, last_exit=None,
            clock=lambda: self.now,
        )  # fmt: skip

    def step(self, *observed: r.Record) -> None:
        for record in observed:
            self.metrics.observe(record)
        self.now += STEP_S
        self.status.sample()

    def document(self) -> Any:
        return json.loads(self.status.document())


@pytest.fixture
def watched() -> Watched:
    """A worker that has not decided anything."""
    return Watched()


def test_an_empty_worker_has_a_document(watched: Watched) -> None:
    """Nothing to divide by is null, health says why, and the worker is introduced."""
    found = watched.document()
    assert found["ready"] == {"ok": False, "reasons": ["no model is known"]}
    assert found["live"] == {"ok": True, "reasons": []}
    assert found["worker"]["uptime_s"] == 600
    assert [found["recent"][name] for name in ("p50_s", "cost_share", "quality_share")] == [None] * 3
    assert found["learning"] == {"exploring_share": None, "feedback_share": None, "mean_feedback_delay_s": None}


def test_rates_are_of_the_last_minute(watched: Watched) -> None:
    """What is older counts since the start, but not in the rate."""
    watched.step(*[ROUTED] * 100)
    for _ in range(12):
        watched.step()
    assert watched.document()["recent"]["decisions"] == 0
    watched.step(*[ROUTED] * 30, *[REJECTED] * 30)
    found = watched.document()
    assert found["recent"]["per_s"] == pytest.approx(1.0, rel=0.1)
    assert (found["recent"]["rejected"], found["since_start"]["decisions"]) == (30, 160)
    assert found["since_start"]["rejections"] == {"budget_exhausted": 30}


def test_quality_and_cost_against_the_best_model(watched: Watched) -> None:
    """Shares of what always asking the best model would have brought and cost."""
    watched.step(*[ROUTED] * 10)
    found = watched.document()["since_start"]
    assert (found["quality_share"], found["cost_share"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert found["baseline_cost_usd"] - found["cost_usd"] == pytest.approx(0.03)


def test_every_model_of_the_catalog_is_listed(watched: Watched) -> None:
    """Also one that was never chosen, with prices, expectation and what came instead."""
    watched.step(ROUTED, r.RewardGiven("small", 1.0, 0.6), r.ModelLearned("small", 1, 1.0), r.FeedbackArrived(2.0))
    found = watched.document()
    chosen, never = found["models"]
    assert (chosen["share"], never["share"]) == (1.0, 0.0)
    assert chosen["reward"] == {"pairs": 1, "expected": 0.6, "observed": 1.0}
    assert (chosen["observations"], chosen["mean_reward"], chosen["chosen_uncertainty"]) == (1, 1.0, 0.1)
    assert (never["reward"], never["mean_reward"], never["input_usd_per_mtok"]) == (None, None, 9.0)
    assert found["learning"] == {"exploring_share": 1.0, "feedback_share": 1.0, "mean_feedback_delay_s": 2.0}


def test_pace_is_used_over_passed(watched: Watched) -> None:
    """1 would be even; this user has used 60 % when half of the window has passed."""
    found = watched.document()["budgets"]
    assert (found["share"], found["elapsed"]) == (0.6, 0.5)
    assert found["fullest"] == [
        {"user_id": "u", "limit_usd": 1e-8, "settled_usd": 2e-9, "reserved_usd": 4e-9, "share": 0.6, "pace": 1.2}
    ]


def test_history_is_a_ring(watched: Watched) -> None:
    """Ten minutes of steps, however long the worker runs; gaps are null."""
    for _ in range(3 * STEPS):
        watched.step()
    watched.step(*[ROUTED] * 10)
    history = watched.document()["history"]
    assert {len(history[name]) for name in ("at", "per_s", "p50_s", "p99_s", "lag")} == {STEPS}
    assert history["per_s"][-2:] == [0.0, 10 / STEP_S]
    assert history["p50_s"][-2] is None
    assert 0.005 < history["p50_s"][-1] < 0.01
    assert history["models"] == {"small": [0.0] * (STEPS - 1) + [10.0]}


def test_lag_by_partition(watched: Watched) -> None:
    """In the order of topics and partitions, without those that were lost."""
    watched.step(r.Lag("queries", 10, 5), r.Lag("queries", 2, 1), r.Lag("feedback", 0, 3), r.Lag("queries", 3, 9))
    watched.step(r.Lag("queries", 3, None))
    found = watched.document()
    assert {(one["topic"], one["partition"], one["lag"]) for one in found["partitions"]} == {
        ("feedback", 0, 3), ("queries", 2, 1), ("queries", 10, 5),
    }  # fmt: skip
    assert found["history"]["lag"] == [18, 9]


def test_the_page_needs_no_other_address() -> None:
    """One file: no script, style, font or picture comes from elsewhere."""
    text = page().decode()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "src=" not in text
