"""PILOT as published (arXiv 2508.21141): beliefs, cost model and traffic buckets of preset `paper`.

Reward: disjoint LinUCB on the unit-length projection without intercept, scored as
cos(ψ̂, θ̃), from the preference prior N(θ_k⁰, (λ_k I)⁻¹). Cost: each arm's mean output
tokens. Learning traffic explores and teaches, without a budget; deployment traffic
exploits what was learned under the budget, and teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.beliefs import expected_output_tokens
from worker.core.costs import CostEstimate, QueryCost
from worker.core.disjoint import DisjointArms
from worker.core.draw import uniforms
from worker.core.prior import PreferencePrior, Prior
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray

ALPHA = 0.3  # the paper chose its α on tuning data and does not say which
_BUCKET = b"bucket"


def teaches(query_id: str, learning_share: float | None) -> bool:
    """Whether a query belongs to the learning bucket; only rewards of these are learned. None: all do."""
    return learning_share is None or uniforms(query_id, _BUCKET)[0] < learning_share


def as_published(prior: Prior) -> Prior:
    """The prior without what the paper does not have: intercept, kinds of query, scores.

    A prior of kind `triplet` is so already. Of any other only projection and sample are kept.
    """
    if prior.kind == "triplet":
        return prior
    projection = replace(prior.projection, constant=False, tasks=None, clusters=None)
    contexts = prior.contexts[:, : projection.dimension]
    costs = prior.mean_costs
    return Prior("none", projection, contexts, prior.models, mean_costs=costs, input_tokens=prior.input_tokens)


class MeanCosts:
    """Cost of a call from each arm's mean output tokens, or its mean cost where a table has only dollars."""

    def __init__(self, request: FloatArray, input_usd: FloatArray, output_usd: FloatArray, tokens: FloatArray) -> None:
        self._request, self._input, self._output = request, input_usd, output_usd
        self.tokens = tokens

    @property
    def mean_costs(self) -> FloatArray:
        """Cost in USD of a call with an empty prompt, shape (K,)."""
        return self._request + self._output * self.tokens

    def estimate(self, x: FloatArray, input_tokens: float) -> QueryCost:  # noqa: ARG002 - the port's signature
        """The cost of one query: no quantile and no correction, the mean is all there is."""
        usd = (self.mean_costs + self._input * input_tokens).tolist()
        return QueryCost(usd, usd, usd)

    def estimate_many(self, X: FloatArray, input_tokens: FloatArray) -> CostEstimate:  # noqa: ARG002 - the port's
        """The costs of n queries, arrays of shape (n, K)."""
        usd = self.mean_costs + self._input * input_tokens[:, None]
        return CostEstimate(usd, usd, usd)

    def learn(self, k: int, x: FloatArray, outcome: float) -> None:
        """Means come from the sums of all shards, see `PaperBeliefs.refresh`."""

    def settle(self, k: int, true_usd: float, predicted_usd: float) -> None:
        """There is no bias to learn."""

    def freeze(self) -> None:
        """There is no bias to take over."""

    def refresh(self, sums: Sequence[Moments], true_usd: FloatArray, predicted_usd: FloatArray) -> None:
        """Logs have no plain mean; see `PaperBeliefs.refresh`."""


class PaperBeliefs:
    """What the paper believes of K arms. An arm without a preference starts at θ⁰ = 0, λ = 1.

    Args:
        prior: of kind `triplet`, or `as_published`.
        arms: the K enabled arms.
        table: take mean costs in USD from the prior in place of prices and tokens.
    """

    def __init__(self, prior: Prior, arms: Sequence[Arm], *, table: bool) -> None:
        self._arms = arms
        self._dimension = prior.projection.dimension
        preference = prior.preference
        self.known = [preference is not None and arm.model in prior.models for arm in arms]
        means, ridge = _start(prior, preference, arms)
        self.rewards = DisjointArms(len(arms), self._dimension, ridge, means, cosine=True)
        self._table = table
        self.costs = _table_costs(prior, arms) if table else _token_costs(prior, arms)
        self._first_tokens = self.costs.tokens.copy()

    def refresh(
        self,
        statistics: Mapping[str, ArmStatistics],
        outstanding: Mapping[str, FloatArray] | None = None,  # noqa: ARG002 - the paper does not have them
    ) -> None:
        """Solve again from the shards' totals by model; mean output tokens are plain means of theirs."""
        nothing = ArmStatistics.zeros(self._dimension)
        live = [statistics.get(arm.model, nothing) for arm in self._arms]
        if live:
            self.rewards.refresh([arm.reward for arm in live])
        if not self._table:
            counts = np.array([arm.log_tokens.n for arm in live])
            sums = np.array([float(arm.output_tokens) for arm in live])
            self.costs.tokens = np.where(counts > 0, sums / np.maximum(counts, 1), self._first_tokens)


def _start(prior: Prior, preference: PreferencePrior | None, arms: Sequence[Arm]) -> tuple[FloatArray, FloatArray]:
    means, ridge = np.zeros((len(arms), prior.projection.dimension)), np.ones(len(arms))
    for k, arm in enumerate(arms):
        if preference is not None and arm.model in prior.models:
            index = prior.models.index(arm.model)
            means[k], ridge[k] = preference.theta[index], preference.strength[index]
    return means, ridge


def _table_costs(prior: Prior, arms: Sequence[Arm]) -> MeanCosts:
    nothing = np.zeros(len(arms))
    usual = float(np.mean(list(prior.mean_costs.values()))) if prior.mean_costs else 0.0
    listed = np.array([prior.mean_costs.get(arm.model, usual) for arm in arms])
    return MeanCosts(listed, nothing, nothing, nothing)


def _token_costs(prior: Prior, arms: Sequence[Arm]) -> MeanCosts:
    return MeanCosts(
        np.array([arm.request_usd for arm in arms]),
        np.array([arm.input_usd_per_mtok for arm in arms]) * USD_PER_MTOK,
        np.array([arm.output_usd_per_mtok for arm in arms]) * USD_PER_MTOK,
        expected_output_tokens(prior, arms),
    )
