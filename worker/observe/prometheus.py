"""Records to Prometheus metrics. Names and labels of the first group are public; others may be added, none renamed.

No label has values that a sender can choose freely: there are as many series with ten users as with ten million.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from worker.money import to_usd
from worker.observe import records as r
from worker.observe.last_exit import LastExit
from worker.observe.tally import Level, Mean, Spread, Tallies, Tally, Total
from worker.observe.vitals import About, Vitals

# From the fastest decision (a few ms) to a failover (10 to 60 s).
LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
# A part of it can be far below a millisecond.
STAGE_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, *LATENCY_BUCKETS_S)
DELAY_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = CONTENT_TYPE_LATEST
MAX_MODELS = 256
OTHER = "other"  # every model beyond that

T = TypeVar("T", bound=Tally)


class PrometheusObserver:
    """All metrics of one worker in one registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._look: Callable[[], Vitals] | None = None
        self._models: set[str] = {""}
        self._tallies = Tallies(self._measure)
        self._define_public()
        self._define_decisions()
        self._define_learning()
        self._define_records()
        self._define_vitals()
        self._handlers = self._all_handlers()
        self.registry.register(self._tallies)

    def exposition(self) -> bytes:
        """The text that `/metrics` serves, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def observe(self, record: r.Record) -> None:
        """Update the metrics that this record concerns."""
        self._handlers[type(record)](record)

    def all(self) -> list[tuple[str, Tally]]:
        """Every metric by the name under which it is exposed."""
        return [(f"{t.name}_total" if isinstance(t, Total) else t.name, t) for t in self._tallies.all]

    def watch(self, look: Callable[[], Vitals]) -> None:
        """Take a look at every scrape from now on."""
        self._look = look

    def introduce(self, about: About, last_exit: LastExit | None) -> None:
        """Say what this worker is, and how its predecessor ended."""
        named = (about.version, about.policy, about.preset, about.reserve, about.fingerprint)
        self.build.set(1, *named)
        if last_exit is not None:
            self.last_exit.set(1, "" if last_exit.code is None else str(last_exit.code), last_exit.reason)
            self.last_exit_at.set(last_exit.at)

    def _define_public(self) -> None:
        self.queries = self._add(Total("queries", "Query records dealt with.", "outcome"))
        self.decisions = self._add(
            Total("decisions", "Decisions acknowledged by the broker.", "model", "policy", "status")
        )
        self.latency = self._add(
            Spread(
                "decision_latency_seconds",
                "From the query's broker timestamp to the acknowledged decision.",
                LATENCY_BUCKETS_S,
            )
        )
        self.feedback = self._add(Total("feedback", "Parts of feedback records.", "part", "outcome"))
        self.dead_letters = self._add(Total("dead_letters", "Records set aside, by source topic.", "topic", "code"))
        self.cost = self._add(
            Total("cost_usd", "Money, estimated at the decision and settled by feedback.", "model", "kind")
        )
        self.baseline = self._add(Total("baseline_cost_usd", "What the best model would have cost, estimated."))
        self.observations = self._add(Level("model_observations", "Rewards learned, over all partitions.", "model"))
        self.lag = self._add(Level("consumer_lag", "Records between the commit and the end.", "topic", "partition"))
        self.committed = self._add(Level("last_commit_timestamp_seconds", "When offsets were last committed."))
        self.committed.set(0)

    def _define_decisions(self) -> None:
        self.stages = self._add(
            Spread(
                "decision_stage_seconds",
                "Where the latency went: wait in the topic, encode, decide, write.",
                STAGE_BUCKETS_S,
                "stage",
            )
        )
        self.rejections = self._add(Total("rejections", "Rejected queries by reason.", "reason"))
        self.exploring = self._add(
            Total("exploring_decisions", "Decisions for a model although another looked better at its price.")
        )
        self.uncertainty = self._add(
            Mean("decision_uncertainty", "One standard deviation of the chosen model's reward.", "model")
        )
        self.expected_reward = self._add(
            Total("expected_reward", "Expected rewards of the chosen models, summed.", "model")
        )
        self.baseline_reward = self._add(Total("baseline_reward", "Expected rewards of the best models, summed."))
        self.unlimited = self._add(Total("unlimited_queries", "Queries of users without any budget."))
        self.texts = self._add(Total("encoder_texts", "Texts by where their embedding came from.", "source"))
        self.encoder_batch = self._add(
            Spread("encoder_batch_texts", "Texts encoded together, those from the cache included.", BATCH_BUCKETS)
        )

    def _define_learning(self) -> None:
        self.feedback_delay = self._add(
            Spread("feedback_delay_seconds", "From a query to the first feedback on it.", DELAY_BUCKETS_S)
        )
        self.failures = self._add(
            Total("model_failures", "Calls that ended in an error or timeout.", "model", "status")
        )
        self.mean_reward = self._add(Level("model_mean_reward", "Mean of the rewards learned.", "model"))
        self.calibration_pairs = self._add(
            Total("calibration_pairs", "Outcomes that had been expected, by what they are of.", "model", "of")
        )
        self.calibration_reward = self._add(
            Total("calibration_reward", "Rewards of these pairs, summed.", "model", "side")
        )
        self.calibration_cost = self._add(
            Total("calibration_cost_usd", "Costs of these pairs, summed.", "model", "side")
        )

    def _define_records(self) -> None:
        self.above_bound = self._add(Total("costs_above_bound", "Reported costs above their own bound.", "model"))
        self.skipped = self._add(Total("control_records_skipped", "Bad records on a control topic.", "topic"))
        self.lost = self._add(Total("records_lost", "Records removed by retention unread.", "topic", "partition"))

    def _define_vitals(self) -> None:
        self.budget_users = self._add(Level("budget_users", "Limited users that spent in the current window."))
        self.budget_over_80 = self._add(Level("budget_users_over_80_percent", "Those above 80 % of their limit."))
        self.budget_exhausted = self._add(Level("budget_users_exhausted", "Those at 99 % of their limit or above."))
        self.budget_limit = self._add(Level("budget_limit_usd", "Sum of these users' limits."))
        self.budget_used = self._add(Level("budget_used_usd", "Sum of what they have used.", "kind"))
        self.budget_elapsed = self._add(Level("budget_window_elapsed_ratio", "Share of the window that has passed."))
        self.arm_reward = self._add(
            Level("model_expected_reward", "Expected reward over recent queries, chosen or not.", "model")
        )
        self.arm_uncertainty = self._add(
            Level("model_uncertainty", "Its standard deviation over recent queries.", "model")
        )
        self.tables = self._add(Level("table_entries", "Keys in the local store.", "table"))
        self.recovering = self._add(Level("recovery_remaining_records", "Changelog records still to be recovered."))
        self.replica_lag = self._add(Level("replica_lag_records", "Arm records written but not yet read here."))
        self.replica_shards = self._add(Level("replica_shards", "Shards that the replica holds."))
        self.build = self._add(
            Level("build_info", "What runs here.", "version", "policy", "preset", "reserve", "fingerprint")
        )
        self.last_exit = self._add(Level("last_exit_info", "How the process before this one ended.", "code", "reason"))
        self.last_exit_at = self._add(Level("last_exit_timestamp_seconds", "When it ended; killed: when it started."))

    def _add(self, tally: T) -> T:
        self._tallies.declare(tally)
        return tally

    def _measure(self) -> None:
        if self._look is not None:
            self._show(self._look())

    def _show(self, vitals: Vitals) -> None:
        budgets = vitals.budgets
        self.budget_users.set(budgets.users)
        self.budget_over_80.set(budgets.over_80)
        self.budget_exhausted.set(budgets.exhausted)
        self.budget_limit.set(to_usd(budgets.limit))
        self.budget_used.set(to_usd(budgets.settled), "settled")
        self.budget_used.set(to_usd(budgets.reserved), "reserved")
        self.budget_elapsed.set(budgets.elapsed)
        arms = vitals.arms[:MAX_MODELS]
        self.arm_reward.replace({(a.model,): a.expected_reward for a in arms if a.expected_reward is not None})
        self.arm_uncertainty.replace({(a.model,): a.uncertainty for a in arms if a.uncertainty is not None})
        self.tables.replace({(table,): float(entries) for table, entries in vitals.tables.items()})
        self.recovering.set(vitals.recovery_remaining)
        self.replica_lag.set(vitals.replica_lag)
        self.replica_shards.set(vitals.replica_shards)

    def _model(self, name: str | None) -> str:
        """The model as a label. The catalog is short, but models come and go for as long as the process runs."""
        # A label cannot be absent, so a rejection has the empty model.
        name = name or ""
        if name in self._models:
            return name
        if len(self._models) > MAX_MODELS:
            return OTHER
        self._models.add(name)
        return name

    def _all_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            r.QueryHandled: lambda record: self.queries.add(1, record.outcome),
            r.DecisionSent: self._decided,
            r.FeedbackPartHandled: lambda record: self.feedback.add(1, record.part, record.outcome),
            r.DeadLetterSent: lambda record: self.dead_letters.add(1, record.topic, str(record.code)),
            r.FeedbackArrived: lambda record: self.feedback_delay.add(record.delay_s),
            r.RewardGiven: self._rewarded,
            r.MoneySettled: self._settled,
            r.CallFailed: lambda record: self.failures.add(1, self._model(record.model), record.status),
            r.CostAboveBound: lambda record: self.above_bound.add(1, self._model(record.model)),
            r.UnlimitedQuery: lambda _: self.unlimited.add(1),
            r.ControlRecordSkipped: lambda record: self.skipped.add(1, record.topic),
            r.ModelLearned: self._learned,
            r.Lag: lambda record: self.lag.set(record.records, record.topic, str(record.partition)),
            r.Committed: lambda record: self.committed.set(record.timestamp_s),
            r.RecordsLost: lambda record: self.lost.add(record.count, record.topic, str(record.partition)),
            r.TextsEncoded: self._encoded,
        }

    def _decided(self, record: r.DecisionSent) -> None:
        model = self._model(record.model)
        self.decisions.add(1, model, record.policy, record.status)
        if record.stages is not None:
            self.latency.add(sum(record.stages))
            for stage, seconds in zip(record.stages._fields, record.stages, strict=True):
                self.stages.add(seconds, stage)
        if record.reason is not None:
            self.rejections.add(1, record.reason)
        if record.model is None:
            return
        self.cost.add(to_usd(record.estimated_nanos or 0), model, "estimated")
        self.baseline.add(to_usd(record.baseline_nanos or 0))
        self.baseline_reward.add(_grown(record.baseline_reward))
        self.expected_reward.add(_grown(record.expected_reward), model)
        self.uncertainty.add(record.uncertainty or 0.0, model)
        self.exploring.add(record.exploring)

    def _rewarded(self, record: r.RewardGiven) -> None:
        if record.expected is not None:
            model = self._model(record.model)
            self.calibration_pairs.add(1, model, "reward")
            self.calibration_reward.add(_grown(record.expected), model, "expected")
            self.calibration_reward.add(record.reward, model, "observed")

    def _settled(self, record: r.MoneySettled) -> None:
        model = self._model(record.model)
        self.cost.add(to_usd(record.nanos), model, "settled")
        if record.expected_nanos is not None:
            self.calibration_pairs.add(1, model, "cost")
            self.calibration_cost.add(to_usd(record.expected_nanos), model, "expected")
            self.calibration_cost.add(to_usd(record.nanos), model, "observed")

    def _learned(self, record: r.ModelLearned) -> None:
        model = self._model(record.model)
        self.observations.set(record.observations, model)
        if record.observations:
            self.mean_reward.set(record.reward_sum / record.observations, model)

    def _encoded(self, record: r.TextsEncoded) -> None:
        self.texts.add(record.hits, "cache")
        self.texts.add(record.misses, "model")
        self.encoder_batch.add(record.hits + record.misses)


def _grown(expected: float | None) -> float:
    """What a counter grows by. A prediction can be below 0, and a counter that falls looks like a restart."""
    return max(0.0, expected or 0.0)
