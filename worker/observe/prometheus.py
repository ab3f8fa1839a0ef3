"""Records to Prometheus metrics. Names and labels of the first group are public; others may be added, none renamed."""

from __future__ import annotations

from functools import singledispatchmethod

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client import disable_created_metrics as _disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker.money import to_usd
from worker.observe import records as r

# From the fastest decision (a few ms) to a failover (10 to 60 s).
LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class PrometheusObserver:
    """All metrics of one worker in one registry of its own."""

    def __init__(self) -> None:
        # They would double the number of series, for a time that nobody asked for.
        _disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._define_public()
        self._define_more()

    def exposition(self) -> bytes:
        """The text that `/metrics` serves, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def observe(self, record: r.Record) -> None:
        """Update the metrics that this record concerns."""
        self._count(record)

    def _define_public(self) -> None:
        self._queries = self._counter("queries", "Query records dealt with.", "outcome")
        self._decisions = self._counter(
            "decisions", "Decisions acknowledged by the broker.", "model", "policy", "status"
        )
        self._latency = Histogram(
            "pilot_decision_latency_seconds",
            "From the query's broker timestamp to the acknowledged decision.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._feedback = self._counter("feedback", "Parts of feedback records.", "part", "outcome")
        self._dead_letters = self._counter("dead_letters", "Records set aside, by source topic.", "topic", "code")
        self._cost = self._counter(
            "cost_usd", "Money, estimated at the decision and settled by feedback.", "model", "kind"
        )
        self._baseline = self._counter("baseline_cost_usd", "What the best model would have cost, estimated.")
        self._observations = self._gauge("model_observations", "Rewards learned, over all partitions.", "model")
        self._lag = self._gauge("consumer_lag", "Records between the commit and the end.", "topic", "partition")
        self._committed = self._gauge("last_commit_timestamp_seconds", "When offsets were last committed.")

    def _define_more(self) -> None:
        self._failures = self._counter("model_failures", "Calls that ended in an error or timeout.", "model", "status")
        self._above_bound = self._counter("costs_above_bound", "Reported costs above their own bound.", "model")
        self._unlimited = self._counter("unlimited_queries", "Queries of users without any budget.")
        self._skipped = self._counter("control_records_skipped", "Bad records on a control topic.", "topic")
        self._lost = self._counter("records_lost", "Records removed by retention unread.", "topic", "partition")
        self._encoded = self._counter("encoder_texts", "Texts by where their embedding came from.", "source")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"pilot_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"pilot_{name}", meaning, labels, registry=self.registry)

    @singledispatchmethod
    def _count(self, record: object) -> None:
        raise TypeError(f"no metric for {type(record).__name__}")

    @_count.register
    def _(self, record: r.QueryHandled) -> None:
        self._queries.labels(record.outcome).inc()

    @_count.register
    def _(self, record: r.DecisionSent) -> None:
        # A label cannot be absent, so a rejection has the empty model.
        self._decisions.labels(record.model or "", record.policy, record.status).inc()
        if record.latency_s is not None:
            self._latency.observe(record.latency_s)
        if record.model is not None and record.estimated_nanos is not None:
            self._cost.labels(record.model, "estimated").inc(to_usd(record.estimated_nanos))
        if record.baseline_nanos is not None:
            self._baseline.inc(to_usd(record.baseline_nanos))

    @_count.register
    def _(self, record: r.FeedbackPartHandled) -> None:
        self._feedback.labels(record.part, record.outcome).inc()

    @_count.register
    def _(self, record: r.DeadLetterSent) -> None:
        self._dead_letters.labels(record.topic, record.code).inc()

    @_count.register
    def _(self, record: r.MoneySettled) -> None:
        self._cost.labels(record.model, "settled").inc(to_usd(record.nanos))

    @_count.register
    def _(self, record: r.CallFailed) -> None:
        self._failures.labels(record.model, record.status).inc()

    @_count.register
    def _(self, record: r.CostAboveBound) -> None:
        self._above_bound.labels(record.model).inc()

    @_count.register
    def _(self, record: r.UnlimitedQuery) -> None:
        del record
        self._unlimited.inc()

    @_count.register
    def _(self, record: r.ControlRecordSkipped) -> None:
        self._skipped.labels(record.topic).inc()

    @_count.register
    def _(self, record: r.ModelLearned) -> None:
        self._observations.labels(record.model).set(record.observations)

    @_count.register
    def _(self, record: r.Lag) -> None:
        if record.records is None:
            self._lag.remove_by_labels({"topic": record.topic, "partition": str(record.partition)})
        else:
            self._lag.labels(record.topic, record.partition).set(record.records)

    @_count.register
    def _(self, record: r.Committed) -> None:
        self._committed.set(record.timestamp_s)

    @_count.register
    def _(self, record: r.RecordsLost) -> None:
        self._lost.labels(record.topic, record.partition).inc(record.count)

    @_count.register
    def _(self, record: r.TextsEncoded) -> None:
        self._encoded.labels("cache").inc(record.hits)
        self._encoded.labels("model").inc(record.misses)
