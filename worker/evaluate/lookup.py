"""The baseline `label-lookup`: means by label of the train rows, in place of a learned model.

It runs through the same router and policy as every other; only what it believes differs.
A context is one number, the label's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.core.costs import CostEstimate, QueryCost
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray
from worker.evaluate.table import Rows, Table


class _Means:
    """Means by label, of shape (labels, K), served as a reward model that does not learn."""

    dimension = 1

    def __init__(self, means: FloatArray) -> None:
        self._means = means
        self._certain = np.zeros(means.shape[1])
        self.arms = means.shape[1]

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self._means[int(x[0])], self._certain

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        means = self.expect_many(X)
        return means, np.zeros(means.shape)

    def deviation(self, x: FloatArray) -> FloatArray:  # noqa: ARG002 - the port's signature
        return self._certain

    def expect_many(self, X: FloatArray) -> FloatArray:
        return self._means[X[:, 0].astype(np.int64)]

    def learn(self, k: int, x: FloatArray, r: float) -> None:
        """Known from the train rows; nothing is added."""

    def refresh(self, sums: Sequence[Moments]) -> None:
        """Nothing to solve."""


class _MeanCosts(_Means):
    """The same for costs in USD; the quantile is the one of the label's train rows."""

    def __init__(self, means: FloatArray, high: FloatArray) -> None:
        super().__init__(means)
        self._high = high
        self.mean_costs: FloatArray = means.mean(axis=0)

    def estimate(self, x: FloatArray, input_tokens: float) -> QueryCost:  # noqa: ARG002 - the port's signature
        label = int(x[0])
        means = self._means[label].tolist()
        return QueryCost(means, self._high[label].tolist(), means)

    def estimate_many(self, X: FloatArray, input_tokens: FloatArray) -> CostEstimate:  # noqa: ARG002 - the port's
        labels = X[:, 0].astype(np.int64)
        return CostEstimate(self._means[labels], self._high[labels], self._means[labels])

    def settle(self, k: int, true_usd: float, predicted_usd: float) -> None:
        """Nothing is added."""

    def freeze(self) -> None:
        """Nothing to take over."""

    def refresh(self, sums: Sequence[Moments], *_costs: FloatArray) -> None:
        """Nothing to solve."""


class Lookup:
    """Beliefs that are a lookup table."""

    def __init__(self, table: Table, train: Rows, quantile: float) -> None:
        strata = table.strata
        labels = int(strata.max()) + 1
        every = [train[strata[train] == label] for label in range(labels)]
        # A label that train does not have gets the means of all.
        rows = [own if len(own) else train for own in every]
        rewards = np.array([table.rewards[own].mean(axis=0) for own in rows])
        costs = np.array([table.costs[own].mean(axis=0) for own in rows])
        high = np.array([np.quantile(table.costs[own], quantile, axis=0) for own in rows])
        self.rewards = _Means(rewards)
        self.costs = _MeanCosts(costs, np.maximum(high, costs))
        self.known = [True] * len(table.models)

    def refresh(
        self,
        statistics: Mapping[str, ArmStatistics],
        outstanding: Mapping[str, FloatArray] | None = None,
    ) -> None:
        """Nothing to solve."""


def label_contexts(table: Table) -> FloatArray:
    """The label's number of every row, shape (n, 1)."""
    return table.strata.astype(np.float64)[:, None]


def lookup_prior(contexts: FloatArray, train: Rows) -> Prior:
    """A prior that carries the train rows' labels as its sample."""
    spread: NDArray[np.int64] = train[np.linspace(0, len(train) - 1, min(400, len(train))).astype(np.int64)]
    return Prior("table", Projection("label", np.zeros(1), np.zeros((0, 1))), contexts[spread])
