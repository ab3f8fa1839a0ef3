"""What a call will cost: its mean and a quantile, from a regression on log outcomes.

Two models behind one port. `PricedTokens` learns output tokens and computes dollars
from the price list, so a changed price acts at once; `LogCost` learns log dollars, for
tables that have no tokens. A mean of logs is too low for a mean: a bias per arm, frozen
between refreshes so that one decision's error cannot feed the next, corrects it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.downdate import downdate
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray

BIAS_CALLS = 20.0  # the prior mean cost counts like so many settled calls
TYPICAL_INPUT_TOKENS = 256.0  # of a query of which nothing is known
_RIDGE = 1.0
_SPREAD2 = 0.5  # variance of a log outcome before there are data, and what it counts for
_SPREAD_CALLS = 5.0
_TINY_USD = 1e-12  # what a free call counts as where a log or a ratio is taken
# A named tuple's own constructor is a Python function and takes twice as long.
_fast = tuple.__new__
_LOG_LIMIT = 25.0  # e^25: beyond any count of tokens; keeps an extreme extrapolation finite


class QueryCost(NamedTuple):
    """USD of one query per arm, K values each: for so few, lists are faster than arrays.

    `expected` is the mean after the bias correction, `quantile` what the call stays
    below with the chosen probability, `predicted` the mean before the correction.
    """

    expected: list[float]
    quantile: list[float]
    predicted: list[float]


class CostEstimate(NamedTuple):
    """The same for n queries, each of shape (n, K)."""

    expected: FloatArray
    quantile: FloatArray
    predicted: FloatArray


class CostPort(Protocol):
    """What a policy needs to know about money."""

    @property
    def mean_costs(self) -> FloatArray:
        """Mean cost of a call in USD before any feedback, shape (K,)."""

    def estimate(self, x: FloatArray, input_tokens: float) -> QueryCost:
        """The cost of one query, context of shape (d,)."""

    def estimate_many(self, X: FloatArray, input_tokens: FloatArray) -> CostEstimate:
        """The costs of n queries, equal up to rounding: contexts of shape (n, d), tokens of shape (n,)."""

    def learn(self, k: int, x: FloatArray, outcome: float) -> None:
        """Learn an outcome of arm k: output tokens (`PricedTokens`) or USD (`LogCost`)."""

    def settle(self, k: int, true_usd: float, predicted_usd: float) -> None:
        """Note a settled call beside its prediction before bias; acts at the next `freeze`."""

    def freeze(self) -> None:
        """Take over the bias that the settled calls show."""

    def refresh(self, sums: Sequence[Moments], true_usd: FloatArray, predicted_usd: FloatArray) -> None:
        """Solve from K sums of log outcomes and freeze the bias of these cost sums (K,)."""


def log_costs(costs: FloatArray, mean: float) -> FloatArray:
    """Log of USD. A call that cost nothing has no log; a thousandth of the mean stands for it."""
    logs: FloatArray = np.log(np.maximum(costs, _least(mean)))
    return logs


def _least(mean: float) -> float:
    return max(mean * 1e-3, _TINY_USD)


class LogRidge:
    """K ridge regressions on the log of an outcome, with the spread of what they miss.

    Args:
        means: outcome expected before any data, shape (K,), all > 0.
        dimension: d of the context, whose last coordinate is the constant 1.
    """

    def __init__(self, means: FloatArray, dimension: int) -> None:
        self._start = np.zeros((len(means), dimension))
        self._start[:, -1] = np.log(means)
        self.refresh([Moments.zeros(dimension) for _ in means])

    def refresh(self, sums: Sequence[Moments]) -> None:
        """Solve exactly from the sums of each arm."""
        arms, dimension = self._start.shape
        if len(sums) != arms:
            raise ValueError(f"{len(sums)} sums for {arms} arms")
        A = np.array([moments.A for moments in sums]).reshape(arms, dimension, dimension)
        b = np.array([moments.b for moments in sums]).reshape(arms, dimension) + _RIDGE * self._start
        self._system = A + _RIDGE * np.eye(dimension)
        self._inverse: FloatArray | None = None
        solved = np.linalg.solve(self._system, b[:, :, None])[:, :, 0]
        self.theta: FloatArray = solved.astype(np.float64, copy=False)
        self._calls = [moments.n for moments in sums]
        squares = np.array([moments.squares for moments in sums])
        fitted = np.einsum("kd,kd->k", self.theta, b)
        misfit = np.maximum(squares + _RIDGE * (self._start**2).sum(axis=1) - fitted, 0.0)
        self._misfit: list[float] = misfit.tolist()
        self.spread = [_spread(*pair) for pair in zip(self._misfit, self._calls, strict=True)]

    def learn(self, k: int, x: FloatArray, log_outcome: float) -> float:
        """Rank-one form of the same solve, including the sum of squares that it misses; the arm's new spread."""
        if self._inverse is None:
            # Where sums are solved now and then nobody learns so, and a solution costs less than an inverse.
            inverses = np.linalg.inv(self._system)
            self._inverse = (inverses + inverses.transpose(0, 2, 1)) / 2
        inverse, theta = self._inverse[k], self.theta[k]
        g = inverse.dot(x)
        f = 1.0 + float(x.dot(g))
        error = log_outcome - float(x.dot(theta))
        theta += g * (error / f)
        downdate(inverse, g, f)
        calls, misfit = self._calls[k], self._misfit[k] = self._calls[k] + 1, self._misfit[k] + error * error / f
        spread = self.spread[k] = _spread(misfit, calls)
        return spread


def _spread(misfit: float, calls: int) -> float:
    """Standard deviation of a log outcome, from the squares that the regression missed."""
    return math.sqrt((misfit + _SPREAD_CALLS * _SPREAD2) / (calls + _SPREAD_CALLS))


class _Bias:
    """bias_k = (Σ true + 20 c̄_k) / (Σ predicted + 20 c̄_k / s_k), frozen between refreshes."""

    def __init__(self, mean_costs: FloatArray, calibration: FloatArray | None) -> None:
        scale = np.ones(len(mean_costs)) if calibration is None else calibration
        # A free model has no cost to compare: the floor keeps its bias at 1.
        self._true0 = BIAS_CALLS * np.maximum(mean_costs, _TINY_USD)
        self._predicted0 = self._true0 / scale
        self.reset(np.zeros(len(mean_costs)), np.zeros(len(mean_costs)))

    def reset(self, true_usd: FloatArray, predicted_usd: FloatArray) -> None:
        self._true: list[float] = true_usd.tolist()
        self._predicted: list[float] = predicted_usd.tolist()
        self.freeze()

    def settle(self, k: int, true_usd: float, predicted_usd: float) -> None:
        self._true[k] += true_usd
        self._predicted[k] += predicted_usd

    def freeze(self) -> None:
        factor = (self._true0 + self._true) / (self._predicted0 + self._predicted)
        self.factor: list[float] = factor.tolist()


class _LearnedCost:
    """What both models share: a regression, a bias, a quantile."""

    def __init__(
        self,
        dimension: int,
        outcomes: FloatArray,
        mean_costs: FloatArray,
        calibration: FloatArray | None,
        quantile: float,
    ) -> None:
        self.mean_costs = mean_costs
        self._ridge = LogRidge(outcomes, dimension)
        self._bias = _Bias(mean_costs, calibration)
        self._z = NormalDist().inv_cdf(quantile)
        self._rise = self._rises()
        self._least = [1.0] * len(mean_costs)  # the smallest outcome, for it has a log

    def _rises(self) -> list[float]:
        """Quantile ÷ mean of each arm's outcome."""
        return [math.exp(self._z * spread) for spread in self._ridge.spread]

    def learn(self, k: int, x: FloatArray, outcome: float) -> None:
        spread = self._ridge.learn(k, x, math.log(max(outcome, self._least[k])))
        self._rise[k] = math.exp(self._z * spread)

    def settle(self, k: int, true_usd: float, predicted_usd: float) -> None:
        self._bias.settle(k, true_usd, predicted_usd)

    def freeze(self) -> None:
        self._bias.freeze()

    def refresh(self, sums: Sequence[Moments], true_usd: FloatArray, predicted_usd: FloatArray) -> None:
        self._ridge.refresh(sums)
        self._rise = self._rises()
        self._bias.reset(true_usd, predicted_usd)

    def _means(self, x: FloatArray) -> list[float]:
        """Mean outcome of each arm, before bias."""
        logs: list[float] = self._ridge.theta.dot(x).tolist()
        if max(logs) > _LOG_LIMIT:
            logs = [min(log, _LOG_LIMIT) for log in logs]
        return list(map(math.exp, logs))

    def _means_many(self, X: FloatArray) -> FloatArray:
        """The same of n queries, shape (K, n): the few arms in rows share long loops over the queries."""
        means: FloatArray = np.exp(np.minimum(self._ridge.theta.dot(X.T), _LOG_LIMIT))
        return means


def _column(values: list[float]) -> FloatArray:
    return np.array(values)[:, None]


class PricedTokens(_LearnedCost):
    """Tokens are learned, dollars are computed from the arms' prices.

    Args:
        arms: the K arms with their prices.
        dimension: d of the context.
        quantile: probability level of `CostEstimate.quantile`.
        output_tokens: tokens expected before any data, shape (K,); None: as the arms say.
        calibration: s_k, true cost ÷ predicted cost where the prior was fitted, shape (K,).
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        dimension: int,
        quantile: float = 0.95,
        output_tokens: FloatArray | None = None,
        calibration: FloatArray | None = None,
    ) -> None:
        said = np.array([arm.expected_output_tokens for arm in arms], dtype=np.float64)
        tokens = np.maximum(said if output_tokens is None else output_tokens, 1.0)
        request = np.array([arm.request_usd for arm in arms], dtype=np.float64)
        per_input = np.array([arm.input_usd_per_mtok for arm in arms], dtype=np.float64) * USD_PER_MTOK
        per_output = np.array([arm.output_usd_per_mtok for arm in arms], dtype=np.float64) * USD_PER_MTOK
        most = np.array([arm.max_output_tokens or np.inf for arm in arms], dtype=np.float64)
        columns = (request, per_input, per_output, most)
        self._prices = list(zip(*(column.tolist() for column in columns), strict=True))
        self._price_columns = tuple(column[:, None] for column in columns)
        mean_costs = request + per_input * TYPICAL_INPUT_TOKENS + per_output * np.minimum(tokens, most)
        super().__init__(dimension, tokens, mean_costs, calibration, quantile)

    def estimate(self, x: FloatArray, input_tokens: float) -> QueryCost:
        """The cost of one query in USD."""
        found: QueryCost = _fast(QueryCost, ([], [], []))
        add_expected, add_quantile, add_predicted = (column.append for column in found)
        columns = zip(self._means(x), self._rise, self._bias.factor, self._prices, strict=True)
        for mean, rise, factor, (request, per_input, per_output, most) in columns:
            prompt = request + per_input * input_tokens
            predicted = prompt + per_output * (min(most, mean))
            expected = predicted * factor
            high = mean * rise
            quantile = prompt + per_output * (min(most, high))
            add_expected(expected)
            add_quantile(max(expected, quantile))
            add_predicted(predicted)
        return found

    def estimate_many(self, X: FloatArray, input_tokens: FloatArray) -> CostEstimate:
        """The costs of n queries in USD, arrays of shape (n, K)."""
        means = self._means_many(X)
        request, per_input, per_output, most = self._price_columns
        prompts = request + per_input * input_tokens
        predicted = prompts + per_output * np.minimum(means, most)
        expected = predicted * _column(self._bias.factor)
        quantile = prompts + per_output * np.minimum(means * _column(self._rise), most)
        return CostEstimate(expected.T, np.maximum(quantile, expected).T, predicted.T)


class LogCost(_LearnedCost):
    """Log dollars are learned; input tokens are ignored. For tables of prompts with costs.

    Args:
        mean_costs: c̄_k, mean cost in USD that is known from the start, shape (K,).
        dimension: d of the context.
        quantile: probability level of `CostEstimate.quantile`.
        calibration: s_k, true cost ÷ predicted cost where the prior was fitted, shape (K,).
    """

    def __init__(
        self,
        mean_costs: FloatArray,
        dimension: int,
        quantile: float = 0.95,
        calibration: FloatArray | None = None,
    ) -> None:
        floored = np.maximum(mean_costs, _TINY_USD)
        super().__init__(dimension, floored, mean_costs, calibration, quantile)
        self._least = [_least(mean) for mean in mean_costs.tolist()]

    def estimate(self, x: FloatArray, input_tokens: float) -> QueryCost:  # noqa: ARG002 - the port's signature
        """The cost of one query in USD."""
        predicted = self._means(x)
        expected = [mean * factor for mean, factor in zip(predicted, self._bias.factor, strict=True)]
        high = [mean * rise for mean, rise in zip(predicted, self._rise, strict=True)]
        quantile = [max(usual, top) for top, usual in zip(high, expected, strict=True)]
        found: QueryCost = _fast(QueryCost, (expected, quantile, predicted))
        return found

    def estimate_many(self, X: FloatArray, input_tokens: FloatArray) -> CostEstimate:  # noqa: ARG002 - the port's
        """The costs of n queries in USD, arrays of shape (n, K)."""
        predicted = self._means_many(X)
        expected = predicted * _column(self._bias.factor)
        return CostEstimate(expected.T, np.maximum(predicted * _column(self._rise), expected).T, predicted.T)
