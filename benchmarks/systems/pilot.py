"""Our router, one by one as `pilot evaluate` runs it, and in micro-batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from systems.stream import DIMENSION, Stream, make_token_prior
from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.batch import Batch
from worker.core.learn import Lesson, learn
from worker.core.prior import Prior
from worker.core.router import Router, RouterOptions
from worker.core.statistics import ArmStatistics
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos, to_usd

CALL_TOKENS = 1_000.0  # of a mean call: makes a price a token of a table's mean cost
SOLVE_EVERY = 1_000  # queries


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
        elapsed = min(number / self._planned, 1.0)
        account = Account(self._limit, self._settled, self._reserved, self._expected, number, elapsed)
        request = Request(str(number), x, None, 400, user_id="user")
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


class CandidateReader(PilotRouter):
    """The same, and every candidate of every verdict is looked at."""

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        arm = super().decide(x)
        self.candidates = tuple(self._verdict.candidates)
        return arm


class Outcomes(NamedTuple):
    """What the K arms would bring to one query: rewards, costs in USD, output tokens."""

    rewards: list[float]
    costs: list[float]
    tokens: list[int]


class PilotBatches:
    """The same in micro-batches, as the worker learns: tokens at list prices, sums that are solved now and then.

    `Batch` weighs, each query sees the budget as its predecessors left it, and a batch's calls settle when all
    are decided. The worker solves once a second when it has a thousand rewards; here it is done every
    `SOLVE_EVERY` queries, which is far more often at these rates.
    """

    def __init__(self, known: Stream, limit_usd: float, queries: int) -> None:
        means = known.costs.mean(axis=0)
        self._price = means / CALL_TOKENS
        arms = [Arm(f"arm-{k}", output_usd_per_mtok=usd / USD_PER_MTOK) for k, usd in enumerate(self._price.tolist())]
        self._router = Router(make_token_prior(known, self._tokens(known.costs)), RouterOptions())
        self._router.set_arms(arms)
        self._number = {arm.model: k for k, arm in enumerate(arms)}
        self._sums = {arm.model: ArmStatistics.zeros(DIMENSION) for arm in arms}
        self._limit, self._planned = to_nanos(limit_usd), queries
        self._settled = self._queries = self._solved = 0

    def outcomes(self, stream: Stream) -> list[Outcomes]:
        """What every arm would bring to each query."""
        tokens = self._tokens(stream.costs).tolist()
        return list(map(Outcomes, stream.rewards.tolist(), stream.costs.tolist(), tokens))

    def requests(self, stream: Stream) -> list[Request]:
        """What is asked: the stream's queries as the router takes them."""
        return [Request(str(number), x, None, 400, user_id="user") for number, x in enumerate(stream.contexts)]

    def cycle(self, requests: list[Request], outcomes: list[Outcomes]) -> list[Verdict]:
        """Decide on n queries, then settle and learn what their arms brought."""
        verdicts = self._decide(Batch(self._router, requests), len(requests))
        self._learn(verdicts, requests, outcomes)
        return verdicts

    def _decide(self, batch: Batch, count: int) -> list[Verdict]:
        reserved = expected = 0
        verdicts = []
        for n in range(count):
            elapsed = min(self._queries / self._planned, 1.0)
            verdict = batch.decide(n, Account(self._limit, self._settled, reserved, expected, self._queries, elapsed))
            reserved += verdict.reservation_nanos or 0
            expected += verdict.estimated_cost_nanos or 0
            self._queries += 1
            verdicts.append(verdict)
        return verdicts

    def _tokens(self, costs: FloatArray) -> NDArray[np.int64]:
        return np.maximum(np.rint(costs / self._price), 1.0).astype(np.int64)

    def _learn(self, verdicts: list[Verdict], requests: list[Request], outcomes: list[Outcomes]) -> None:
        for verdict, request, (rewards, costs, tokens) in zip(verdicts, requests, outcomes, strict=True):
            if verdict.model is None:
                continue
            arm = self._number[verdict.model]
            paid = to_nanos(costs[arm])
            self._settled += paid
            lesson = Lesson(request.context, rewards[arm], tokens[arm], None, paid, verdict.predicted_cost_nanos)
            learn(self._sums[verdict.model], lesson)
        if self._queries - self._solved >= SOLVE_EVERY:
            self._router.refresh(self._sums)
            self._solved = self._queries
