"""A decision's and its feedback's metrics as prometheus-client's own objects: what ours are compared with.

Every child is bound when it is first needed, so an update is one look-up and one call; names
and labels are those of `worker/observe/prometheus.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from worker.money import to_usd
from worker.observe import records as r
from worker.observe.prometheus import DELAY_BUCKETS_S, LATENCY_BUCKETS_S, STAGE_BUCKETS_S


class _Model(NamedTuple):
    """The children of one model."""

    estimated: Counter
    settled: Counter
    expected: Counter
    uncertainty: Summary
    reward_pairs: Counter
    cost_pairs: Counter
    reward_expected: Counter
    reward_observed: Counter
    cost_expected: Counter
    cost_observed: Counter


class PlainMetrics:
    """Observes what `PrometheusObserver` does, for the records of routed queries and their feedback."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        queries = self._counter("queries", "outcome")
        decisions = self._counter("decisions", "model", "policy", "status")
        feedback = self._counter("feedback", "part", "outcome")
        self._query, self._decision, self._part = cache(queries.labels), cache(decisions.labels), cache(feedback.labels)
        self._latency = self._histogram("decision_latency_seconds", LATENCY_BUCKETS_S)
        stages = self._histogram("decision_stage_seconds", STAGE_BUCKETS_S, "stage")
        self._stages = [stages.labels(stage) for stage in r.Stages._fields]
        self._delay = self._histogram("feedback_delay_seconds", DELAY_BUCKETS_S)
        self._baseline, self._baseline_reward = self._counter("baseline_cost_usd"), self._counter("baseline_reward")
        self._exploring, self._unlimited = self._counter("exploring_decisions"), self._counter("unlimited_queries")
        self._model = cache(self._model_binder())
        self._handlers: dict[type, Callable[[Any], None]] = {
            r.QueryHandled: lambda record: self._query(record.outcome).inc(),
            r.DecisionSent: self._decided,
            r.FeedbackArrived: lambda record: self._delay.observe(record.delay_s),
            r.FeedbackPartHandled: lambda record: self._part(record.part, record.outcome).inc(),
            r.RewardGiven: self._rewarded,
            r.MoneySettled: self._settled,
            r.UnlimitedQuery: lambda _: self._unlimited.inc(),
        }

    def observe(self, record: r.Record) -> None:
        """Update the metrics that this record concerns."""
        self._handlers[type(record)](record)

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(f"pilot_{name}", name, labels, registry=self._registry)

    def _histogram(self, name: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"pilot_{name}", name, labels, buckets=bounds, registry=self._registry)

    def _model_binder(self) -> Callable[[str], _Model]:
        cost, expected = self._counter("cost_usd", "model", "kind"), self._counter("expected_reward", "model")
        uncertainty = Summary("pilot_decision_uncertainty", "uncertainty", ["model"], registry=self._registry)
        pairs = self._counter("calibration_pairs", "model", "of")
        rewards = self._counter("calibration_reward", "model", "side")
        costs = self._counter("calibration_cost_usd", "model", "side")

        def bind(model: str) -> _Model:
            return _Model(
                cost.labels(model, "estimated"), cost.labels(model, "settled"), expected.labels(model),
                uncertainty.labels(model), pairs.labels(model, "reward"), pairs.labels(model, "cost"),
                rewards.labels(model, "expected"), rewards.labels(model, "observed"),
                costs.labels(model, "expected"), costs.labels(model, "observed"),
            )  # fmt: skip

        return bind

    def _decided(self, record: r.DecisionSent) -> None:
        self._decision(record.model, record.policy, record.status).inc()
        if record.stages is not None:
            self._latency.observe(sum(record.stages))
            for stage, seconds in zip(self._stages, record.stages, strict=True):
                stage.observe(seconds)
        if record.model is None:
            return
        model = self._model(record.model)
        model.estimated.inc(to_usd(record.estimated_nanos or 0))
        self._baseline.inc(to_usd(record.baseline_nanos or 0))
        self._baseline_reward.inc(max(0.0, record.baseline_reward or 0.0))
        model.expected.inc(max(0.0, record.expected_reward or 0.0))
        model.uncertainty.observe(record.uncertainty or 0.0)
        if record.exploring:
            self._exploring.inc()

    def _rewarded(self, record: r.RewardGiven) -> None:
        if record.expected is None:
            return
        model = self._model(record.model)
        model.reward_pairs.inc()
        model.reward_expected.inc(max(0.0, record.expected))
        model.reward_observed.inc(record.reward)

    def _settled(self, record: r.MoneySettled) -> None:
        model = self._model(record.model)
        model.settled.inc(to_usd(record.nanos))
        if record.expected_nanos is not None:
            model.cost_pairs.inc()
            model.cost_expected.inc(to_usd(record.expected_nanos))
            model.cost_observed.inc(to_usd(record.nanos))
