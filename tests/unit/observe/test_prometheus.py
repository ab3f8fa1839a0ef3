"""Records become metrics; names and labels are those that others build dashboards on."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import DeadLetterCode
from worker.observe import records as r
from worker.observe.budgets import BudgetBook
from worker.observe.last_exit import LastExit
from worker.observe.prometheus import MAX_MODELS, OTHER, PrometheusObserver
from worker.observe.vitals import About, ArmVitals, BudgetUse, Vitals

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
STAGES = r.Stages(0.125, 0.25, 0.0625, 0.5)
ROUTED = r.DecisionSent("pacing", "routed", "gpt-4", None, STAGES, 2_500_000, 4_000_000, 0.75, 0.875, 0.25, True)
REJECTED = r.DecisionSent("pacing", "rejected", None, "budget_exhausted", STAGES)
VITALS = Vitals(
    BudgetUse(0, 100, 0.25, users=9, over_80=3, exhausted=1, limit=8 * 10**9, settled=10**9, reserved=2 * 10**9),
    (ArmVitals("gpt-4", True, 1, 2, 0, 0.75, 0.125, 0.01), ArmVitals("off", False, 1, 2, 0)),
    {"pending": 7},
    recovery_remaining=5,
    replica_lag=4,
    replica_shards=3,
)
EXAMPLES: list[r.Record] = [
    r.QueryHandled("routed"),
    ROUTED,
    r.FeedbackPartHandled("money", "applied"),
    r.DeadLetterSent("queries", 1, 20, DeadLetterCode.INVALID_JSON),
    r.FeedbackArrived(2.5),
    r.RewardGiven("gpt-4", 1.0, 0.75),
    r.MoneySettled("gpt-4", 1_000_000, 2_000_000),
    r.CallFailed("gpt-4", "timeout"),
    r.CostAboveBound("gpt-4", 3, 2),
    r.UnlimitedQuery(),
    r.ControlRecordSkipped("models", 4, "not JSON"),
    r.ModelLearned("gpt-4", 17, 8.5),
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
        observer.observe(r.DecisionSent("pacing", "routed", "gpt-4", None))
        assert value(observer, "pilot_decision_latency_seconds_count") == 1

    def test_latency_and_its_stages(self, observer: PrometheusObserver) -> None:
        """The latency is the sum, and every stage has a histogram of its own."""
        observer.observe(ROUTED)
        assert value(observer, "pilot_decision_latency_seconds_sum") == sum(STAGES)
        for stage, seconds in STAGES._asdict().items():
            assert value(observer, "pilot_decision_stage_seconds_sum", stage=stage) == seconds
        assert value(observer, "pilot_decision_latency_seconds_bucket", le="0.5") == 0
        assert value(observer, "pilot_decision_latency_seconds_bucket", le="1.0") == 1
        assert value(observer, "pilot_decision_latency_seconds_bucket", le="+Inf") == 1

    def test_quality_beside_the_best_model(self, observer: PrometheusObserver) -> None:
        """Expected rewards are summed for the chosen and for the best model, rejections with their reason."""
        observer.observe(ROUTED)
        observer.observe(REJECTED)
        assert value(observer, "pilot_expected_reward_total", model="gpt-4") == 0.75
        assert value(observer, "pilot_baseline_reward_total") == 0.875
        assert value(observer, "pilot_rejections_total", reason="budget_exhausted") == 1

    def test_counters_never_fall(self, observer: PrometheusObserver) -> None:
        """An expectation below 0 adds nothing: Prometheus would take a counter that fell for one that began anew."""
        observer.observe(ROUTED)
        observer.observe(ROUTED._replace(expected_reward=-0.25, baseline_reward=-0.125))
        observer.observe(r.RewardGiven("gpt-4", 0.0, -0.25))
        assert value(observer, "pilot_expected_reward_total", model="gpt-4") == ROUTED.expected_reward
        assert value(observer, "pilot_baseline_reward_total") == ROUTED.baseline_reward
        assert value(observer, "pilot_calibration_reward_total", model="gpt-4", side="expected") == 0

    def test_learning_of_a_decision(self, observer: PrometheusObserver) -> None:
        """How many explore, and the mean uncertainty of what was chosen."""
        for record in (ROUTED, ROUTED._replace(exploring=False, uncertainty=0.75)):
            observer.observe(record)
        assert value(observer, "pilot_exploring_decisions_total") == 1
        assert value(observer, "pilot_decision_uncertainty_sum", model="gpt-4") == 1.0
        assert value(observer, "pilot_decision_uncertainty_count", model="gpt-4") == 2


class TestFeedback:
    """What feedback adds to."""

    def test_calibration_compares_what_was_expected(self, observer: PrometheusObserver) -> None:
        """Both sides grow by the same pairs; an outcome that nobody expected is no pair."""
        for record in EXAMPLES:
            observer.observe(record)
        observer.observe(r.RewardGiven("gpt-4", 0.5, None))
        observer.observe(r.MoneySettled("gpt-4", 9_000_000))
        for of in ("reward", "cost"):
            assert value(observer, "pilot_calibration_pairs_total", model="gpt-4", of=of) == 1
        assert value(observer, "pilot_calibration_reward_total", model="gpt-4", side="expected") == 0.75
        assert value(observer, "pilot_calibration_reward_total", model="gpt-4", side="observed") == 1.0
        cost = observer.calibration_cost.by("side", model="gpt-4")
        assert cost == {"expected": pytest.approx(0.002), "observed": pytest.approx(0.001)}

    def test_mean_of_the_learned_rewards(self, observer: PrometheusObserver) -> None:
        """Sum over count; a model that learned nothing has none."""
        observer.observe(r.ModelLearned("gpt-4", 4, 3.0))
        observer.observe(r.ModelLearned("new", 0))
        assert value(observer, "pilot_model_mean_reward", model="gpt-4") == 0.75
        assert value(observer, "pilot_model_mean_reward", model="new") is None


class TestVitals:
    """What is measured at the scrape."""

    def test_every_scrape_takes_a_new_look(self, observer: PrometheusObserver) -> None:
        """Budgets in USD, arms, tables, recovery and replica as they are at that moment."""
        looks = iter((VITALS, replace(VITALS, tables={"pending": 8}, arms=())))
        observer.watch(lambda: next(looks))
        first, second = observer.exposition().decode(), observer.exposition().decode()
        for line in (
            "pilot_budget_users 9.0", "pilot_budget_users_over_80_percent 3.0", "pilot_budget_users_exhausted 1.0",
            "pilot_budget_limit_usd 8.0", 'pilot_budget_used_usd{kind="settled"} 1.0',
            'pilot_budget_used_usd{kind="reserved"} 2.0', "pilot_budget_window_elapsed_ratio 0.25",
            'pilot_model_expected_reward{model="gpt-4"} 0.75', 'pilot_model_uncertainty{model="gpt-4"} 0.125',
            'pilot_table_entries{table="pending"} 7.0', "pilot_recovery_remaining_records 5.0",
            "pilot_replica_lag_records 4.0", "pilot_replica_shards 3.0",
        ):  # fmt: skip
            assert f"{line}\n" in first
        assert 'pilot_table_entries{table="pending"} 8.0\n' in second
        assert "pilot_model_expected_reward{" not in second
        assert 'model="off"' not in first

    def test_what_runs_and_how_the_last_one_ended(self, observer: PrometheusObserver) -> None:
        """Two series that are always 1, with the facts as labels; the text of the exit is none of them."""
        about = About("w", "g", "1.2", "pacing", "default", "quantile", "fp", 0.0)
        observer.introduce(about, LastExit(71, "stalled", "queries/0 has not moved for 11 s", 50.0))
        build = {"version": "1.2", "policy": "pacing", "preset": "default", "reserve": "quantile", "fingerprint": "fp"}
        assert value(observer, "pilot_build_info", **build) == 1
        assert value(observer, "pilot_last_exit_info", code="71", reason="stalled") == 1
        assert value(observer, "pilot_last_exit_timestamp_seconds") == 50.0

    def test_first_start_has_no_last_exit(self, observer: PrometheusObserver) -> None:
        """Nothing ended before."""
        observer.introduce(About("w", "g", "1.2", "pacing", "default", "quantile", "fp", 0.0), None)
        assert "pilot_last_exit_info{" not in observer.exposition().decode()


class TestCardinality:
    """The number of series does not depend on who sends."""

    def test_ten_thousand_users_add_no_series(self, observer: PrometheusObserver) -> None:
        """Users are summed up, never labels."""
        book = BudgetBook(3600)
        observer.watch(lambda: replace(VITALS, budgets=book.use(0.0, lambda _: 10**9)))
        book.note("first", 1, 1)
        for record in EXAMPLES:
            observer.observe(record)
        few = observer.exposition().count(b"\n")
        for number in range(10_000):
            book.note(f"user-{number}", number, 1)
            for record in EXAMPLES:
                observer.observe(record)
        many = observer.exposition()
        assert many.count(b"\n") == few
        assert b"user-" not in many

    def test_models_beyond_the_bound_share_a_series(self, observer: PrometheusObserver) -> None:
        """Models that come and go for years cannot fill the memory; those that were first keep their own."""
        for number in range(MAX_MODELS + 50):
            observer.observe(ROUTED._replace(model=f"m{number}"))
        counted = observer.decisions.by("model")
        assert len(counted) == MAX_MODELS + 1
        assert (counted["m0"], counted[OTHER]) == (1, 50)


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
