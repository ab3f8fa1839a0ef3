"""How many decide + learn cycles a second the core does on one CPU, beside other people's bandits.

Every system gets the same contexts (d = 26), rewards and costs and one BLAS thread. Ours is the
whole Router: scores with uncertainty, cost estimates, eligibility, the user's budget and its
pacing, the verdict with all candidates, and an exact update of reward and cost model. The others
do what they offer. Times are CPU time of the thread, so other programs on the machine disturb
less; repetitions of all systems are interleaved and the median is printed.

    python benchmarks/core_speed.py --repetitions 7
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
from rich.console import Console
from rich.table import Table
from rivals import Rival, missing
from rivals.libraries import MabwiserLinUcb, PlainLoop, RiverLinUcb

from worker.core.arms import Arm
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.router import Router, RouterOptions
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos, to_usd

DIMENSION = 26
ARMS = (3, 5, 11)
BUDGET_SHARE = 0.25  # of what the dearest arm would cost
PRIOR_ROWS = 1_000
WARM_UP = 200  # cycles before the clock starts


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
    count, arms = known.rewards.shape
    models = tuple(f"arm-{k}" for k in range(arms))
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


class PilotRouter:
    """Our router as `pilot evaluate` runs it: one user's window with a budget, settled after every call."""

    def __init__(self, prior: Prior, limit_usd: float, queries: int, options: RouterOptions) -> None:
        self._router = Router(prior, options)
        self._router.set_arms([Arm(model) for model in prior.models])
        self._number = {model: k for k, model in enumerate(prior.models)}
        self._limit, self._planned = to_nanos(limit_usd), queries
        self._settled = self._reserved = self._expected = self._queries = 0

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        number = self._queries
        account = Account(
            self._limit, self._settled, self._reserved, self._expected, number, min(number / self._planned, 1.0)
        )
        request = Request(str(number), x, text_bytes=400, user_id="user")
        self._verdict = verdict = self._router.decide(request, account)
        self._queries += 1
        self._hold(verdict, 1)
        return 0 if verdict.model is None else self._number[verdict.model]

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:  # noqa: ARG002 - the verdict knows
        """Settle the money and learn both outcomes of the decision just made."""
        verdict = self._verdict
        if verdict.model is None:
            return
        self._hold(verdict, -1)
        self._settled += to_nanos(cost_usd)
        self._router.observe(verdict.model, x, reward, cost_usd, to_usd(verdict.predicted_cost_nanos or 0))

    def _hold(self, verdict: Verdict, sign: int) -> None:
        self._reserved += sign * (verdict.reservation_nanos or 0)
        self._expected += sign * (verdict.estimated_cost_nanos or 0)


def cycles_per_s(system: Rival, stream: Stream) -> float:
    """Decide and learn one by one, in CPU time."""
    rewards, costs = stream.rewards.tolist(), stream.costs.tolist()
    contexts = list(stream.contexts)
    for number in range(WARM_UP):
        _cycle(system, contexts[number], rewards[number], costs[number])
    began = time.thread_time()
    for x, reward, cost in zip(contexts[WARM_UP:], rewards[WARM_UP:], costs[WARM_UP:], strict=True):
        arm = system.decide(x)
        system.learn(arm, x, reward[arm], cost[arm])
    return (len(contexts) - WARM_UP) / (time.thread_time() - began)


def _cycle(system: Rival, x: FloatArray, reward: list[float], cost: list[float]) -> None:
    arm = system.decide(x)
    system.learn(arm, x, reward[arm], cost[arm])
