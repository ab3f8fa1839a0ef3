"""The numbers of a finished run, computed once; the terminal and the report only show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.core.verdict import FloatArray
from worker.demo import baselines
from worker.demo.baselines import Outcome
from worker.demo.data import Dataset
from worker.demo.plan import SEED, Plan, best_model
from worker.demo.tally import Streamed, Tally, streamed

PERCENTILES = (50, 95, 99)
MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One way of choosing: `quality_share` and `cost_share` of always the best model, on the same queries."""

    name: str
    quality: float
    quality_share: float
    quality_error: float
    cost_usd: float
    cost_share: float
    rejected: int


@dataclass(frozen=True, slots=True)
class UserBudget:
    """One user's window; money in USD."""

    user_id: str
    limit_usd: float
    spent_usd: float
    queries: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from broker timestamp to decision at `PERCENTILES`."""

    kind: str
    queries: int
    at_percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """Decisions a second: over the whole stream, and in its best second."""

    overall: float
    best_second: int


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of a run; `comparisons` begins with the router itself."""

    stream: Streamed
    outcomes: tuple[Outcome, ...]
    comparisons: tuple[Comparison, ...]
    budgets: tuple[UserBudget, ...]
    latencies: tuple[Latency, ...]
    speed: Speed

    @property
    def sentence(self) -> str:
        """The whole run in one line."""
        router = self.comparisons[0]
        return (
            f"saved {100 * (1 - router.cost_share):.1f} % against always the best model, "
            f"at {100 * router.quality_share:.1f} ± {100 * router.quality_error:.1f} % of its quality"
        )


def evaluate(tally: Tally, plan: Plan, policy: str) -> Results:
    """Compare a run with the baselines on the queries that were answered; there must be at least one."""
    users = list(plan.limits_usd)
    stream = streamed(tally, users)
    outcomes = _outcomes(stream, tally.dataset, np.array(list(plan.limits_usd.values())), policy)
    best = outcomes[1]
    return Results(
        stream=stream,
        outcomes=outcomes,
        comparisons=tuple(_compare(outcome, best) for outcome in outcomes),
        budgets=tuple(_budget(stream, outcomes[0], number, name, plan) for number, name in enumerate(users)),
        latencies=_latencies(tally),
        speed=_speed(tally),
    )


def _outcomes(stream: Streamed, dataset: Dataset, limits: FloatArray, policy: str) -> tuple[Outcome, ...]:
    rewards, costs = stream.rewards, stream.costs
    price = dataset.prior.costs.mean(axis=0)
    router = baselines.played(f"router, {policy}", stream.choice, rewards, costs)
    order = np.argsort(-dataset.prior.rewards.mean(axis=0))
    spends = np.array([router.cost[stream.user == number].sum() for number in range(len(limits))])
    return (
        router,
        baselines.always("always the best", best_model(dataset), rewards, costs),
        baselines.always("always the cheapest", int(price.argmin()), rewards, costs),
        baselines.at_random(rewards, costs, SEED),
        baselines.gateway(rewards, costs, user=stream.user, limits=limits, order=order, price=price),
        baselines.static_mix_by_user(rewards, costs, stream.user, spends),
        baselines.static_mix(rewards, costs, float(router.cost.sum())),
    )


def _compare(outcome: Outcome, best: Outcome) -> Comparison:
    return Comparison(
        name=outcome.name,
        quality=float(outcome.reward.mean()),
        quality_share=float(outcome.reward.sum() / best.reward.sum()),
        quality_error=baselines.ratio_error(outcome.reward, best.reward, SEED),
        cost_usd=float(outcome.cost.sum()),
        cost_share=float(outcome.cost.sum() / best.cost.sum()),
        rejected=outcome.rejected,
    )


def _budget(stream: Streamed, router: Outcome, number: int, name: str, plan: Plan) -> UserBudget:
    own = stream.user == number
    return UserBudget(
        user_id=name,
        limit_usd=plan.limits_usd[name],
        spent_usd=float(router.cost[own].sum()),
        queries=int(own.sum()),
        rejected=int((stream.choice[own] == baselines.REJECTED).sum()),
    )


def _latencies(tally: Tally) -> tuple[Latency, ...]:
    kinds = {"texts": tally.latencies_ms(embedded=False), "embeddings": tally.latencies_ms(embedded=True)}
    return tuple(
        Latency(kind, len(values), tuple(float(value) for value in np.percentile(values, PERCENTILES)))
        for kind, values in kinds.items()
        if len(values)
    )


def _speed(tally: Tally) -> Speed:
    received = np.array([answer.received_ms for answer in tally.answers.values()]) / MS_PER_S
    first = min(tally.asked_ms.values(), default=received.min() * MS_PER_S) / MS_PER_S
    elapsed = max(1e-3, float(received.max() - first))
    _, per_second = np.unique(np.floor(received), return_counts=True)
    return Speed(len(received) / elapsed, int(per_second.max()))
