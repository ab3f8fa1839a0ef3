"""What is believed about the enabled arms: reward and cost model, from the prior and from feedback.

The prior's sums and the shards' are added here, so no caller ever adds a prior twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.costs import TYPICAL_INPUT_TOKENS, CostPort, LogCost, PricedTokens
from worker.core.coupled import CoupledArms
from worker.core.disjoint import DisjointArms
from worker.core.prior import Prior
from worker.core.rewards import RewardModel
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray
from worker.money import to_usd

CostModel = Literal["tokens", "table"]
RewardKind = Literal["coupled", "disjoint", "paper"]
_TINY_USD = 1e-12


class Beliefs(Protocol):
    """Reward and cost model over K arms, both replaced or changed by feedback."""

    @property
    def rewards(self) -> RewardModel:
        """Over the K arms, in their order."""

    @property
    def costs(self) -> CostPort:
        """Over the same arms."""

    @property
    def known(self) -> Sequence[bool]:
        """Whether the prior had rewards of an arm, shape (K,)."""

    def refresh(
        self, statistics: Mapping[str, ArmStatistics], outstanding: Mapping[str, FloatArray] | None = None
    ) -> None:
        """Solve again from the shards' totals by model, the prior not included.

        `outstanding` are Σ w ψψᵀ of open decisions by model, of shape (d, d).
        """


class LearnedBeliefs:
    """Linear models over contexts.

    Args:
        prior: what is known before feedback.
        arms: the K enabled arms.
        quantile: probability level of the reserved cost.
        rewards: `coupled` or `disjoint`.
        costs: `tokens` with list prices, or `table` for logs of dollars.
    """

    def __init__(
        self,
        prior: Prior,
        arms: Sequence[Arm],
        quantile: float,
        rewards: RewardKind = "coupled",
        costs: CostModel = "tokens",
    ) -> None:
        self._prior = prior
        self._models = [arm.model for arm in arms]
        self._table = costs == "table"
        dimension = prior.projection.dimension
        self._nothing = ArmStatistics.zeros(dimension)
        self._start = prior.arms(self._models)
        self.known = [model in self._start for model in self._models]
        self.rewards: RewardModel = (
            CoupledArms(len(arms), dimension, prior.hyper)
            if rewards == "coupled"
            else DisjointArms(len(arms), dimension)
        )
        calibration = np.array([prior.calibration.get(model, 1.0) for model in self._models])
        self.costs: CostPort = (
            LogCost(self._mean_costs(), dimension, quantile, calibration)
            if self._table
            else PricedTokens(arms, dimension, quantile, expected_output_tokens(prior, arms))
        )
        self.refresh({})

    def _mean_costs(self) -> FloatArray:
        """By the prior's price list; an arm that it lacks costs what the others do on average."""
        listed = self._prior.mean_costs
        usual = float(np.mean(list(listed.values()))) if listed else 1e-3
        return np.array([listed.get(model, usual) for model in self._models])

    def refresh(
        self, statistics: Mapping[str, ArmStatistics], outstanding: Mapping[str, FloatArray] | None = None
    ) -> None:
        """Solve again from the shards' totals by model; a model that they lack has only its prior."""
        if not self._models:
            return
        live = [statistics.get(model, self._nothing) for model in self._models]
        priors = [self._start.get(model, self._nothing) for model in self._models]
        sums = [_sum(p.reward, s.reward) for p, s in zip(priors, live, strict=True)]
        if isinstance(self.rewards, CoupledArms) and outstanding:
            nothing = self._nothing.reward.A
            self.rewards.refresh(sums, [outstanding.get(model, nothing) for model in self._models])
        else:
            self.rewards.refresh(sums)
        outcomes = [self._log_outcomes(m, p, s) for m, p, s in zip(self._models, priors, live, strict=True)]
        true = np.array([to_usd(s.cost_true_nanos) for s in live])
        predicted = np.array([to_usd(s.cost_predicted_nanos) for s in live])
        self.costs.refresh(outcomes, true, predicted)

    def _log_outcomes(self, model: str, prior: ArmStatistics, live: ArmStatistics) -> Moments:
        if self._table:
            return self._prior.log_costs.get(model, self._nothing.log_tokens)
        return _sum(prior.log_tokens, live.log_tokens)


def _sum(prior: Moments, live: Moments) -> Moments:
    total = prior.copy()
    total += live
    return total


def expected_output_tokens(prior: Prior, arms: Sequence[Arm]) -> FloatArray:
    """Output tokens to expect before any feedback: what a prior's mean cost implies at the arm's prices."""
    said = [float(arm.expected_output_tokens) for arm in arms]
    tokens = prior.input_tokens or TYPICAL_INPUT_TOKENS
    for index, arm in enumerate(arms):
        cost, price = prior.mean_costs.get(arm.model), arm.output_usd_per_mtok * USD_PER_MTOK
        if cost is None or price < _TINY_USD:
            continue
        implied = (cost - arm.price_usd(tokens, 0)) / price
        said[index] = min(max(implied, 1.0), float(arm.max_output_tokens or np.inf))
    return np.array(said)
