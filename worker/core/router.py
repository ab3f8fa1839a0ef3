"""The router: one query, one account and everything learned so far in, a verdict out.

The Kafka worker and `pilot evaluate` both decide here and nowhere else. The router
owns no durable state: sums and balances come from the caller, and what it keeps
(recent contexts, arrival rates, the policy's plan) only steers how well it plans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from worker.core.arms import Arm
from worker.core.arrivals import Demand
from worker.core.beliefs import Beliefs, CostModel, LearnedBeliefs, RewardKind
from worker.core.costs import TYPICAL_INPUT_TOKENS
from worker.core.coupled import CoupledArms
from worker.core.draw import uniforms
from worker.core.eligibility import (
    BUDGET,
    ELIGIBLE,
    NO_BOUND,
    THRESHOLD,
    Codes,
    Mask,
    Nanos,
    Screen,
    exclude,
    prompt_tokens,
    screen,
)
from worker.core.exploration import ALPHA, ForcedPulls
from worker.core.outstanding import Outstanding
from worker.core.paper import ALPHA as PAPER_ALPHA
from worker.core.paper import PaperBeliefs, teaches
from worker.core.policies import create
from worker.core.policies.base import Policy, Sample, View
from worker.core.policies.unlimited import Unlimited
from worker.core.prior import Prior
from worker.core.reservoir import Reservoir
from worker.core.statistics import ArmStatistics
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.core.weighing import Candidates, Weighed, renewed, weigh, weigh_many
from worker.money import NANOS_PER_USD

PLAN_EVERY = 200  # decisions
PLAN_EVERY_EARLY = 25  # at first, while every answer moves the scores
PLAN_FRACTION = 16  # then after a sixteenth of what was decided or learned before
EARLY_REWARDS = 2_000
OUTLOOK_QUERIES = 64  # enough for a mean, and a few milliseconds with a hundred arms
_EXPLORATION = b"exploration"
# A named tuple's own constructor is a Python function and takes twice as long.
_fast = tuple.__new__

MakeBeliefs = Callable[[Sequence[Arm]], Beliefs]


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """The settings that decisions depend on; `alpha` None: by the kind of prior.

    `rewards`: `paper` brings its cost model and the published form of `zcl` with it.
    `costs`: `tokens` at list prices, or `table` where only dollars are known.
    `learning_share` None: every query explores under the policy. Otherwise this share of
    them explores without a price on money, and the others exploit. `open_decisions`: those
    whose reward is to come narrow the deviation; of no use where rewards come at once.
    """

    policy: str = "pacing"
    alpha: float | None = None
    exploration_rate: float = 0.0
    reserve: Literal["expected", "quantile", "worst_case"] = "quantile"
    reserve_quantile: float = 0.95
    fallback: Literal["reject", "cheapest"] = "reject"
    quality_floor: float = 0.95
    detail: Literal["full", "chosen"] = "full"
    rewards: RewardKind = "coupled"
    costs: CostModel = "tokens"
    learning_share: float | None = None
    open_decisions: bool = True


class Outlook(NamedTuple):
    """Means over some queries: expected reward, its standard deviation, and cost in USD."""

    expected_reward: float
    uncertainty: float
    expected_cost_usd: float


class Router:
    """Decides; see the module. One instance serves one process, from one thread.

    Args:
        prior: what is known before feedback.
        options: the settings.
        make_beliefs: other reward and cost models than the learned ones.
    """

    def __init__(self, prior: Prior, options: RouterOptions, make_beliefs: MakeBeliefs | None = None) -> None:
        self.options = options
        self.observations = 0
        self.revision = 0
        self._decided = 0
        self._frozen = False
        self._exploration_rate = options.exploration_rate
        self._bounded = options.reserve == "worst_case"
        self._quantile = options.reserve != "expected"
        self._may_overdraw = options.fallback == "cheapest" and not self._bounded
        self._detailed = options.detail == "full"
        self._share = options.learning_share
        self._prior = prior
        self._make_beliefs = make_beliefs or self._learned_beliefs
        published = options.rewards == "paper"
        usual_alpha = PAPER_ALPHA if published else ALPHA[prior.kind]
        self._alpha = usual_alpha if options.alpha is None else options.alpha
        self._policy: Policy = create(options.policy, options.quality_floor, published=published)
        self._opens_ever = options.open_decisions and prior.kind != "table"
        self._explores_beyond = self._opens_ever or self._exploration_rate > 0
        self._explorer: Policy = self._policy if self._share is None else Unlimited()
        self._demand = Demand()
        self._typical_tokens = prior.input_tokens or TYPICAL_INPUT_TOKENS
        self._reservoir = Reservoir(prior.contexts, self._typical_tokens)
        self._outstanding = Outstanding(prior.projection.dimension)
        self._statistics: Mapping[str, ArmStatistics] = {}
        self.set_arms(())

    def _learned_beliefs(self, arms: Sequence[Arm]) -> Beliefs:
        options = self.options
        if options.rewards == "paper":
            return PaperBeliefs(self._prior, arms, table=options.costs == "table")
        return LearnedBeliefs(self._prior, arms, options.reserve_quantile, options.rewards, options.costs)

    def set_arms(self, arms: Sequence[Arm]) -> None:
        """Take over the catalog; arms that are not enabled cannot be chosen.

        Prices act at once. A new arm starts at the arms' mean; a removed one disappears
        here, its sums are the caller's and count again when it returns.
        """
        self._arms = tuple(arm for arm in arms if arm.enabled)
        self._index = {arm.model: k for k, arm in enumerate(self._arms)}
        self._screen = Screen(self._arms)
        self._beliefs = self._make_beliefs(self._arms)
        self.revision += 1
        self._forced = ForcedPulls(self._beliefs.known)
        self._until_plan = 0
        if self._statistics:
            self.refresh(self._statistics)

    def refresh(self, statistics: Mapping[str, ArmStatistics]) -> None:
        """Solve again from totals by model over all shards, without the prior, which is added here."""
        self._statistics = statistics
        self.observations = sum(arm.reward.n for arm in statistics.values())
        for model, arm in statistics.items():
            self._outstanding.learned(model, arm.reward.n)
        self._beliefs.refresh(statistics, self._outstanding.sums() if self._opens else None)
        self.revision += 1
        self._forced.seen([statistics[a.model].reward.n if a.model in statistics else 0 for a in self._arms])

    def observe(
        self,
        model: str,
        context: FloatArray,
        reward: float | None = None,
        cost_usd: float | None = None,
        predicted_usd: float | None = None,
    ) -> None:
        """Learn one outcome at once, by rank-one updates; `refresh` would forget it.

        For replays of a table, where nothing is shared between workers. `predicted_usd` is
        the verdict's prediction before bias.
        """
        k = self._index[model]
        self.revision += 1
        if reward is not None:
            self._learn(k, context, reward)
        if cost_usd is not None:
            self._beliefs.costs.learn(k, context, cost_usd)
            if predicted_usd is not None:
                self._beliefs.costs.settle(k, cost_usd, predicted_usd)

    def serve(self, share: float) -> None:
        """Say which share of all traffic this worker serves, 0 to 1; 0: unknown, taken as all.

        It sees only its own open decisions and scales them up.
        """
        self._outstanding.share = share or 1.0

    def freeze(self) -> None:
        """From now on decide by what is known: no bonus, no forced pulls."""
        self._frozen = True
        self._until_plan = 0

    def _learn(self, k: int, context: FloatArray, reward: float) -> None:
        rewards = self._beliefs.rewards
        if isinstance(rewards, CoupledArms) and self.options.open_decisions:
            rewards.learn(k, context, reward, self._outstanding.weight)
            self._outstanding.rewarded(self._arms[k].model)
        else:
            rewards.learn(k, context, reward)
        self.observations += 1

    @property
    def _early(self) -> bool:
        """Whether scores still move much with every reward."""
        return self._prior.kind != "table" and self.observations < EARLY_REWARDS

    @property
    def _opens(self) -> bool:
        """Whether open decisions count: early, when the bonus still decides."""
        return self._opens_ever and not self._frozen and self._early

    def outlook(self) -> dict[str, Outlook]:
        """How every enabled arm looks on recent queries, or on the prior's sample before the first ones."""
        contexts, tokens = self._reservoir.contexts[:OUTLOOK_QUERIES], self._reservoir.tokens[:OUTLOOK_QUERIES]
        if not self._arms or not len(contexts):
            return {}
        mean, deviation = self._beliefs.rewards.score_many(contexts)
        costs = self._beliefs.costs.estimate_many(contexts, tokens).expected
        columns = zip(mean.mean(0).tolist(), deviation.mean(0).tolist(), costs.mean(0).tolist(), strict=True)
        return {arm.model: Outlook(*column) for arm, column in zip(self._arms, columns, strict=True)}

    @property
    def version(self) -> str:
        """Names what a decision was made from: `fingerprint:observations`."""
        return f"{self._prior.fingerprint}:{self.observations}"

    def decide(
        self,
        request: Request,
        account: Account | None,
        bounds: Nanos | None = None,
        weighed: Weighed | None = None,
    ) -> Verdict:
        """Choose a model for one query.

        Args:
            request: the query.
            account: the user's window before it; None or without limit: no budget.
            bounds: the most that each enabled arm can cost, in nano-dollars, -1 where
                unknown, for arms without a price list; None: from prices and tokens.
            weighed: the query as `weigh_many` found it at this `revision`, see `Batch`; None: weighed here.
        """
        if account is not None and account.left is None:
            self._demand.note(account)
        tokens = self._tokens(request)
        self._reservoir.add(request.context, tokens)
        if not self._arms:
            return Verdict("no_model", (), self._policy.name)
        if self._until_plan <= 0:
            self._plan()
            tokens, weighed = self._tokens(request), None
        self._until_plan -= 1
        if weighed is None:
            weighed = self._weigh(request.context, tokens)
        elif self._opens:
            weighed = renewed(weighed, self._beliefs.rewards, self._alpha, request.context)
        limited, available = None, None
        if account is not None and account.limit is not None:
            limited, available = account, account.limit - account.settled - account.reserved
        if self._bounded:
            weighed = self._secured(request, limited, weighed, bounds)
        elif self._screen.suits_all(request):
            # Of nearly all queries every arm is suited and the dearest fits: then there is nothing to sort out.
            dearest, most = max(weighed.reserved), request.max_cost_nanos
            if (available is None or dearest <= available) and (most is None or dearest <= most):
                return self._choose(request, limited, weighed, self._screen.none_excluded, self._screen.all)
        return self._sort_out(request, limited, available, weighed)

    def weigh_many(self, requests: Sequence[Request]) -> list[Weighed]:
        """What is believed of these queries now, for as long as `revision` stays.

        While open decisions count, each of them changes the deviations: these are left out, and `decide` adds them.
        """
        contexts = np.concatenate([request.context for request in requests]).reshape(len(requests), -1)
        known = [prompt_tokens(request) for request in requests]
        tokens = np.array([self._typical_tokens if count is None else count for count in known])
        alpha = None if self._opens else self._alpha
        return weigh_many(self._beliefs, alpha, contexts, tokens, quantile=self._quantile)

    def _weigh(self, context: FloatArray, tokens: float) -> Weighed:
        return weigh(self._beliefs, self._alpha, context, tokens, quantile=self._quantile)

    def _tokens(self, request: Request) -> float:
        known = prompt_tokens(request)
        return self._typical_tokens if known is None else known

    def _plan(self) -> None:
        self._until_plan = PLAN_EVERY
        if self._early:
            known = max(self.observations, self._decided)
            self._until_plan = min(max(known // PLAN_FRACTION, PLAN_EVERY_EARLY), PLAN_EVERY)
        self._decided += self._until_plan
        self._beliefs.costs.freeze()
        self.revision += 1
        self._typical_tokens = float(self._reservoir.tokens.mean())
        mean, deviation = self._beliefs.rewards.score_many(self._reservoir.contexts)
        costs = self._beliefs.costs.estimate_many(self._reservoir.contexts, self._reservoir.tokens)
        if self._forced.open:
            self._cheapest_usd = float(costs.expected.min(axis=1).mean())
        exploits = self._frozen or self._share is not None
        score = mean if exploits else mean + self._alpha * deviation
        self._policy.plan(Sample(mean, score, np.ascontiguousarray(costs.expected)))

    def _secured(self, request: Request, limited: Account | None, weighed: Weighed, bounds: Nanos | None) -> Weighed:
        """The same with bounds reserved."""
        most: list[int] = (self._screen.bounds(request) if bounds is None else bounds).tolist()
        if limited is None:
            # No budget to guarantee: where there is no bound, what the call will probably cost.
            known = zip(most, weighed.reserved, strict=True)
            most = [usual if bound == NO_BOUND else bound for bound, usual in known]
        return weighed._replace(reserved=most)

    def _sort_out(self, request: Request, limited: Account | None, available: int | None, weighed: Weighed) -> Verdict:
        codes = self._screen.suited(request)
        reason = screen(codes, weighed.reserved, request.max_cost_nanos, available, bounded_only=self._bounded)
        if reason is None:
            return self._choose(request, limited, weighed, codes, self._screen.eligible(codes))
        if reason == "budget_exhausted" and self._may_overdraw:
            return self._overdraw(weighed, codes)
        return Verdict(reason, Candidates(self._arms, weighed, codes) if self._detailed else (), self._policy.name)

    def _choose(
        self, request: Request, limited: Account | None, weighed: Weighed, codes: Codes, eligible: Mask
    ) -> Verdict:
        left = 1.0 if limited is None else self._demand.left(limited)
        # All queries get a bonus, none after `freeze`, or those of the learning bucket.
        explores = not self._frozen and (self._share is None or teaches(request.query_id, self._share))
        policy, score = (self._explorer, weighed.optimistic) if explores else (self._policy, weighed.mean)
        view = _fast(View, (request.query_id, score, weighed.expected, eligible, limited, left, request.user_id))
        arm, price, threshold = policy.choose(view)
        if threshold is not None:
            codes = list(codes)
            exclude(codes, threshold, THRESHOLD)
            view = view._replace(eligible=self._screen.eligible(codes))
        propensity = 1.0
        if self._explores_beyond or self._forced.open:
            arm, propensity = self._beyond(request, view, arm, forces=explores and self._share is None)
        return self._routed(weighed, codes, arm, propensity, price)

    def _beyond(self, request: Request, view: View, arm: int, *, forces: bool) -> tuple[int, float]:
        """Exploration beyond the bonus: the arm that is taken after all, with its propensity."""
        propensity, forced = 1.0, self._forced
        if forced.open and forces:
            due = forced.due(view, view.eligible, self._cheapest_usd)
            arm = arm if due is None else due
        if self._exploration_rate > 0:
            arm, propensity = self._explore(request.query_id, arm, view.eligible)
        forced.pulled(arm)
        if self._opens:
            self._open(arm, request)
        return arm, propensity

    def _open(self, arm: int, request: Request) -> None:
        rewards = self._beliefs.rewards
        if isinstance(rewards, CoupledArms):
            rewards.open(arm, request.context, self._outstanding.weight)
            self._outstanding.add(self._arms[arm].model, request.context, request.at_s)

    def _explore(self, query_id: str, greedy: int, eligible: Mask) -> tuple[int, float]:
        rate = self._exploration_rate
        options = [k for k, allowed in enumerate(eligible) if allowed]
        whether, which = uniforms(query_id, _EXPLORATION)
        arm = options[int(which * len(options))] if whether < rate else greedy
        share = rate / len(options)
        return arm, 1.0 - rate + share if arm == greedy else share

    def _overdraw(self, weighed: Weighed, codes: list[int]) -> Verdict:
        """The cheapest of the arms that only the budget excludes."""
        within = [k for k, code in enumerate(codes) if code == BUDGET]
        arm = min(within, key=weighed.expected.__getitem__)
        codes[arm] = ELIGIBLE
        return self._routed(weighed, codes, arm, 1.0, None)

    def _routed(self, weighed: Weighed, codes: Codes, arm: int, propensity: float, price: float | None) -> Verdict:
        mean, deviation, _, expected, predicted, reserved = weighed
        candidates = Candidates(self._arms, weighed, codes) if self._detailed else ()
        fields = (
            None, candidates, self._policy.name, self._arms[arm].model,
            mean[arm], deviation[arm], propensity,
            round(expected[arm] * NANOS_PER_USD), round(predicted[arm] * NANOS_PER_USD), reserved[arm], price,
        )  # fmt: skip
        return _fast(Verdict, fields)
