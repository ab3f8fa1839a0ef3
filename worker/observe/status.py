"""Status: one JSON document about a worker, for its status page and for scripts.

Only reads what others keep. Lists are bounded: ten minutes of history, the fullest users,
`MAX_MODELS` models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from worker.money import to_usd
from worker.observe.health import Reasons, judge
from worker.observe.history import STEP_S, History, Span, Totals
from worker.observe.last_exit import LastExit
from worker.observe.prometheus import MAX_MODELS, PrometheusObserver
from worker.observe.vitals import About, ArmVitals, BudgetUse, Vitals

Json = dict[str, Any]


class Status:
    """What `/status.json` answers. `sample` is called every `STEP_S` seconds, `document` by any thread."""

    def __init__(
        self,
        metrics: PrometheusObserver,
        look: Callable[[], Vitals],
        *,
        live: Reasons,
        ready: Reasons,
        about: About,
        last_exit: LastExit | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._look = look
        self._live = live
        self._ready = ready
        self._about = about
        self._last_exit = last_exit
        self._clock = clock
        self._history = History(Totals.of(metrics, clock()))

    def sample(self) -> None:
        """Take the totals into the history."""
        self._history.add(Totals.of(self._metrics, self._clock()))

    def document(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self._document(), allow_nan=False).encode()

    def _document(self) -> Json:
        now, vitals = Totals.of(self._metrics, self._clock()), self._look()
        recent, whole = self._history.recent(now), self._history.whole(now)
        return {
            "at": now.at,
            "worker": {**asdict(self._about), "uptime_s": round(now.at - self._about.started_at, 1)},
            "last_exit": None if self._last_exit is None else asdict(self._last_exit),
            "live": judge(self._live),
            "ready": judge(self._ready),
            "recent": self._span(recent),
            "since_start": {**self._span(whole), **self._counts(now)},
            "history": self._series(),
            "learning": self._learning(whole),
            "models": [self._model(arm, whole, recent) for arm in vitals.arms[:MAX_MODELS]],
            "budgets": _budgets(vitals.budgets),
            "partitions": self._partitions(),
            "state": {
                "tables": vitals.tables,
                "recovery_remaining": vitals.recovery_remaining,
                "replica_lag": vitals.replica_lag,
                "replica_shards": vitals.replica_shards,
                "last_commit_at": self._metrics.committed.values.get(()) or None,
            },
        }

    def _span(self, span: Span) -> Json:
        bounds = self._metrics.latency.bounds
        return {
            "seconds": round(span.seconds, 1),
            "decisions": span.decided,
            "per_s": span.per_s,
            "rejected": span.rejected,
            "p50_s": span.latency_s(bounds, 0.5),
            "p99_s": span.latency_s(bounds, 0.99),
            "cost_usd": span.cost,
            "baseline_cost_usd": span.baseline_cost,
            "cost_share": span.cost_share,
            "quality_share": span.quality_share,
        }

    def _counts(self, now: Totals) -> Json:
        metrics = self._metrics
        return {
            "repeated": now.repeated,
            "rejections": metrics.rejections.by("reason"),
            "dead_letters": metrics.dead_letters.by("code"),
            "settled_usd": metrics.cost.sum(kind="settled"),
            "mean_stage_s": {
                stage: metrics.stages.sums[(stage,)] / sum(counts)
                for (stage,), counts in list(metrics.stages.counts.items())
            },
        }

    def _series(self) -> Json:
        bounds, steps = self._metrics.latency.bounds, list(self._history.steps())
        models = sorted({model for _, span in steps for model, count in span.routed.items() if count})
        return {
            "step_s": STEP_S,
            "at": [round(totals.at, 1) for totals, _ in steps],
            "per_s": [round(span.per_s, 3) for _, span in steps],
            "p50_s": [span.latency_s(bounds, 0.5) for _, span in steps],
            "p99_s": [span.latency_s(bounds, 0.99) for _, span in steps],
            "quality_share": [span.quality_share for _, span in steps],
            "cost_share": [span.cost_share for _, span in steps],
            "rejected": [span.rejected for _, span in steps],
            "lag": [totals.lag for totals, _ in steps],
            "models": {model: [span.routed.get(model, 0.0) for _, span in steps] for model in models},
        }

    def _learning(self, whole: Span) -> Json:
        metrics, routed = self._metrics, sum(whole.routed.values())
        delays = metrics.feedback_delay
        answered = sum(delays.counts[()])
        return {
            "exploring_share": metrics.exploring.sum() / routed if routed else None,
            "feedback_share": min(1.0, answered / routed) if routed else None,
            "mean_feedback_delay_s": delays.sums[()] / answered if answered else None,
        }

    def _model(self, arm: ArmVitals, whole: Span, recent: Span) -> Json:
        metrics, name = self._metrics, arm.model
        routed, lately = sum(whole.routed.values()), sum(recent.routed.values())
        pairs = metrics.calibration_pairs.by("of", model=name)
        return {
            **asdict(arm),
            "decisions": whole.routed.get(name, 0.0),
            "share": whole.routed.get(name, 0.0) / routed if routed else None,
            "recent_share": recent.routed.get(name, 0.0) / lately if lately else None,
            "observations": metrics.observations.values.get((name,), 0),
            "mean_reward": metrics.mean_reward.values.get((name,)),
            "chosen_uncertainty": metrics.uncertainty.mean(name),
            "reward": _calibration(metrics.calibration_reward.by("side", model=name), pairs.get("reward", 0.0)),
            "cost_usd": _calibration(metrics.calibration_cost.by("side", model=name), pairs.get("cost", 0.0)),
            "failures": metrics.failures.by("status", model=name),
        }

    def _partitions(self) -> list[Json]:
        lags = sorted(self._metrics.lag.values.copy().items())
        return [{"topic": topic, "partition": int(number), "lag": lag} for (topic, number), lag in lags]


def page() -> bytes:
    """The status page: one HTML file that needs nothing but the document."""
    return files("worker.observe").joinpath("status.html").read_bytes()


def _calibration(sides: dict[str, float], pairs: float) -> Json | None:
    """Means of what was expected and observed; None before the first pair."""
    if not pairs:
        return None
    return {"pairs": pairs, "expected": sides["expected"] / pairs, "observed": sides["observed"] / pairs}


def _budgets(use: BudgetUse) -> Json:
    used = use.settled + use.reserved
    return {
        "window_start": use.window_start,
        "window_s": use.window_s,
        "elapsed": use.elapsed,
        "users": use.users,
        "over_80": use.over_80,
        "exhausted": use.exhausted,
        "limit_usd": to_usd(use.limit),
        "settled_usd": to_usd(use.settled),
        "reserved_usd": to_usd(use.reserved),
        "share": used / use.limit if use.limit else None,
        "fullest": [
            {
                "user_id": user.user_id,
                "limit_usd": to_usd(user.limit),
                "settled_usd": to_usd(user.settled),
                "reserved_usd": to_usd(user.reserved),
                "share": user.share,
                "pace": user.share / use.elapsed if use.elapsed > 0 else None,
            }
            for user in use.fullest
        ],
    }
