"""Our router, one by one as `pilot evaluate` runs it, and its models in micro-batches."""

from __future__ import annotations

import numpy as np

from worker.core.arms import Arm
from worker.core.costs import LogCost, log_costs
from worker.core.coupled import CoupledArms
from worker.core.eligibility import nanos
from worker.core.policies.base import Sample, View
from worker.core.policies.pacing import Pacing
from worker.core.prior import Prior
from worker.core.router import Router, RouterOptions
from worker.core.statistics import Moments
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos, to_usd

SOLVE_EVERY = 1_000  # cycles; a worker solves once a second at most
INPUT_TOKENS = 100.0


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


class Batches:
    """The same models, policy and budget with scores, costs and learning for many queries at once.

    Scores and costs are computed for the whole batch, then every query is chosen in turn
    under the budget as its predecessors left it; rewards and costs are added to the arms'
    sums, and the models are solved anew from the sums every `SOLVE_EVERY` cycles, as a worker
    does. Within a batch nothing is learned, and there are no verdicts for people to read.
    """

    def __init__(self, prior: Prior, limit_usd: float, queries: int, alpha: float = 0.1) -> None:
        models, dimension = prior.models, prior.projection.dimension
        self._alpha, self._policy = alpha, Pacing()
        self._means = np.array([prior.mean_costs[model] for model in models])
        self._rewards = CoupledArms(len(models), dimension, prior.hyper)
        self._costs = LogCost(self._means, dimension)
        self._reward_sums = [prior.statistics[model].reward.copy() for model in models]
        self._cost_sums = [prior.log_costs[model].copy() for model in models]
        self._true, self._predicted = np.zeros(len(models)), np.zeros(len(models))
        self._contexts = prior.contexts
        self._all = np.ones(len(models), dtype=bool)
        self._limit, self._left = to_nanos(limit_usd), queries
        self._settled = self._number = self._solved = 0
        self._solve()

    def _solve(self) -> None:
        self._rewards.refresh(self._reward_sums)
        self._costs.refresh(self._cost_sums, self._true, self._predicted)
        mean, deviation = self._rewards.score_many(self._contexts)
        costs = self._costs.estimate_many(self._contexts, np.full(len(self._contexts), INPUT_TOKENS))
        self._policy.plan(Sample(mean, mean + self._alpha * deviation, costs.expected))
        self._solved = self._number

    def cycle(self, X: FloatArray, rewards: FloatArray, costs: FloatArray) -> None:
        """Decide on n queries, then settle and learn what their arms brought; arrays (n, d) and (n, K)."""
        mean, deviation = self._rewards.score_many(X)
        estimate = self._costs.estimate_many(X, np.full(len(X), INPUT_TOKENS))
        chosen = self._choose(mean + self._alpha * deviation, estimate.expected, nanos(estimate.quantile))
        rows = np.arange(len(X))
        paid = costs[rows, chosen]
        self._settled += int(nanos(paid).sum())
        np.add.at(self._true, chosen, paid)
        np.add.at(self._predicted, chosen, estimate.predicted[rows, chosen])
        self._learn(X, chosen, rewards[rows, chosen], log_costs(paid, float(self._means.mean())))
        if self._number - self._solved >= SOLVE_EVERY:
            self._solve()

    def _choose(self, score: FloatArray, expected: FloatArray, reservations: FloatArray) -> FloatArray:
        reserved, open_usd = 0, 0.0
        arms = []
        amounts = reservations.tolist()
        for row, own in enumerate(amounts):
            available = self._limit - self._settled - reserved
            eligible = self._all if max(own) <= available else np.array(own) <= available
            if not eligible.any():
                eligible = self._all
            account = Account(self._limit, self._settled, reserved, to_nanos(open_usd), self._number)
            left = max(self._left - self._number, 1)
            view = View(str(self._number), score[row], expected[row], eligible, account, left)
            arm = self._policy.choose(view).arm
            arms.append(arm)
            reserved += own[arm]
            open_usd += float(expected[row, arm])
            self._number += 1
        return np.array(arms)

    def _learn(self, X: FloatArray, chosen: FloatArray, rewards: FloatArray, logs: FloatArray) -> None:
        for arm in set(chosen.tolist()):
            own = chosen == arm
            contexts = X[own]
            self._reward_sums[arm] += Moments.of(contexts, rewards[own])
            self._cost_sums[arm] += Moments.of(contexts, logs[own])
