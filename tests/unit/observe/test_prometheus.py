"""Records become metrics; names and labels are those that others build dashboards on."""

from __future__ import annotations

from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import DeadLetterCode
from worker.observe import records as r
from worker.observe.prometheus import PrometheusObserver

PUBLIC = {
    "pilot_queries_total": {"outcome"},
    "pilot_decisions_total": {"model", "policy", "status"},
    "pilot_decision_latency_seconds_count": set(),
    "pilot_feedback_total": {"part", "outcome"},
    "pilot_dead_letters_total": {"topic", "code"},
    "pilot_cost_usd_total": {"model", "kind"},
    "pilot_baseline_cost_usd_total": set(),
    "pilot_model_observations": {"model"},
    "pilot_consumer_lag": {"topic", "partition"},
    "pilot_last_commit_timestamp_seconds": set(),
}
ROUTED = r.DecisionSent("pacing", "routed", "gpt-4", None, 0.004, 2_500_000, 4_000_000)
REJECTED = r.DecisionSent("pacing", "rejected", None, "budget_exhausted", 0.2, None, None)
EXAMPLES: list[r.Record] = [
    r.QueryHandled("routed"),
    ROUTED,
    r.FeedbackPartHandled("money", "applied"),
    r.DeadLetterSent("queries", 1, 20, DeadLetterCode.INVALID_JSON),
    r.MoneySettled("gpt-4", 1_000_000),
    r.CallFailed("gpt-4", "timeout"),
    r.CostAboveBound("gpt-4", 3, 2),
    r.UnlimitedQuery(),
    r.ControlRecordSkipped("models", 4, "not JSON"),
    r.ModelLearned("gpt-4", 17),
    r.Lag("queries", 0, 12),
    r.Committed(1_700_000_000.5),
    r.RecordsLost("queries", 0, 5, 3),
    r.TextsEncoded(2, 5),
]


@pytest.fixture
def observer() -> PrometheusObserver:
    """A registry of its own for each test."""
    return PrometheusObserver()


def value(observer: PrometheusObserver, name: str, **labels: str) -> float | None:
    """The value of one series, None where there is none."""
    return observer.registry.get_sample_value(name, labels)


def test_the_public_metrics_have_exactly_their_names_and_labels(observer: PrometheusObserver) -> None:
    """After one record of each kind, every metric of the contract is there with its labels."""
    for record in EXAMPLES:
        observer.observe(record)
    families = text_string_to_metric_families(observer.exposition().decode())
    found = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    assert PUBLIC.items() <= found.items()


def test_every_kind_of_record_has_a_metric(observer: PrometheusObserver) -> None:
    """A record added without its metric fails here, not in a running worker."""
    assert {type(record) for record in EXAMPLES} == set(get_args(r.Record))
    for record in EXAMPLES:
        before = observer.exposition()
        observer.observe(record)
        assert observer.exposition() != before, record


class TestDecisions:
    """What a decision adds to."""

    def test_count_by_model_policy_and_status(self, observer: PrometheusObserver) -> None:
        """A rejected one has the empty model."""
        for record in (ROUTED, ROUTED, REJECTED):
            observer.observe(record)
        assert value(observer, "pilot_decisions_total", model="gpt-4", policy="pacing", status="routed") == 2
        assert value(observer, "pilot_decisions_total", model="", policy="pacing", status="rejected") == 1

    def test_savings_are_baseline_minus_estimated(self, observer: PrometheusObserver) -> None:
        """Both sums are in USD and grow by the decision's estimates."""
        observer.observe(ROUTED)
        observer.observe(REJECTED)
        assert value(observer, "pilot_cost_usd_total", model="gpt-4", kind="estimated") == pytest.approx(0.0025)
        assert value(observer, "pilot_baseline_cost_usd_total") == pytest.approx(0.004)

    def test_a_repeat_has_no_latency(self, observer: PrometheusObserver) -> None:
        """Only first decisions are timed."""
        observer.observe(ROUTED)
        observer.observe(r.DecisionSent("pacing", "routed", "gpt-4", None, None, None, None))
        assert value(observer, "pilot_decision_latency_seconds_count") == 1


def test_settled_money_is_counted_in_usd(observer: PrometheusObserver) -> None:
    """Nano-dollars stay inside."""
    observer.observe(r.MoneySettled("gpt-4", 1_500_000_000))
    assert value(observer, "pilot_cost_usd_total", model="gpt-4", kind="settled") == pytest.approx(1.5)


def test_the_lag_of_a_lost_partition_disappears(observer: PrometheusObserver) -> None:
    """Else two workers would report one partition, one of them for ever the same."""
    observer.observe(r.Lag("queries", 3, 12))
    observer.observe(r.Lag("queries", 4, 1))
    observer.observe(r.Lag("queries", 3, None))
    assert value(observer, "pilot_consumer_lag", topic="queries", partition="3") is None
    assert value(observer, "pilot_consumer_lag", topic="queries", partition="4") == 1


def test_losing_a_partition_that_was_never_measured_is_fine(observer: PrometheusObserver) -> None:
    """A revocation may come before the first measurement."""
    observer.observe(r.Lag("queries", 3, None))


def test_two_workers_in_one_process_do_not_share_metrics(observer: PrometheusObserver) -> None:
    """Each observer has its own registry."""
    observer.observe(r.UnlimitedQuery())
    assert value(PrometheusObserver(), "pilot_unlimited_queries_total") == 0


def test_observers_pass_a_record_to_each(observer: PrometheusObserver) -> None:
    """Several observers act as one."""
    other = PrometheusObserver()
    r.Observers(observer, other).observe(r.QueryHandled("repeated"))
    assert value(observer, "pilot_queries_total", outcome="repeated") == 1
    assert value(other, "pilot_queries_total", outcome="repeated") == 1
