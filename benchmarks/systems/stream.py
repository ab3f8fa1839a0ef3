"""A made-up stream of queries: every system is asked the same and is told the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray

DIMENSION = 26
BUDGET_SHARE = 0.25  # of what the dearest arm would cost


@dataclass(frozen=True)
class Stream:
    """n queries × K arms: contexts (n, d), rewards 0 to 1 and costs in USD (n, K)."""

    contexts: FloatArray
    rewards: FloatArray
    costs: FloatArray

    @property
    def allowed_usd(self) -> float:
        """Mean cost of a query under the budget."""
        return BUDGET_SHARE * float(self.costs.mean(axis=0).max())


def make_stream(count: int, arms: int, seed: int) -> Stream:
    """Linear mean rewards with noise; costs that spread sixtyfold, log-normal within an arm."""
    generator = np.random.default_rng(7)  # the arms are the same for every seed
    theta = 0.15 * generator.standard_normal((arms, DIMENSION - 1))
    level, price = np.linspace(0.5, 0.8, arms), 1e-4 * np.geomspace(1, 60, arms)
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((count, DIMENSION - 1))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    chance = np.clip(level + directions @ theta.T, 0.02, 0.98)
    rewards = (generator.random((count, arms)) < chance).astype(np.float64)
    costs = price * np.exp(0.4 * generator.standard_normal((count, arms)))
    return Stream(np.hstack([directions, np.ones((count, 1))]), rewards, costs)


def make_prior(known: Stream, *, warm: bool) -> Prior:
    """What the router starts from: all scores of `known`, or only its mean costs."""
    models = tuple(f"arm-{k}" for k in range(known.rewards.shape[1]))
    projection = Projection("benchmark", np.zeros(DIMENSION - 1), np.eye(DIMENSION - 1))
    means = dict(zip(models, known.costs.mean(axis=0).tolist(), strict=True))
    if not warm:
        return Prior("none", projection, known.contexts[:400], models, mean_costs=means)
    learned = [ArmStatistics(Moments.of(known.contexts, r), Moments.zeros(DIMENSION)) for r in known.rewards.T]
    priced = [Moments.of(known.contexts, np.log(c)) for c in known.costs.T]
    return Prior(
        "table", projection, known.contexts[:400], models, dict(zip(models, learned, strict=True)),
        log_costs=dict(zip(models, priced, strict=True)), mean_costs=means,
    )  # fmt: skip


def make_token_prior(known: Stream, tokens: FloatArray) -> Prior:
    """The same for a worker, which learns tokens: all scores and output tokens (n, K) of `known`."""
    prior = make_prior(known, warm=True)
    learned = {
        model: ArmStatistics(prior.statistics[model].reward, Moments.of(known.contexts, np.log(tokens[:, k])))
        for k, model in enumerate(prior.models)
    }
    return replace(prior, statistics=learned, log_costs={})
