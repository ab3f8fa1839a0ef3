"""Queries against all arms: scores, costs and reservations, and how they are told.

One query or many at once: the numbers are the same up to rounding, and become lists of
floats here, because what follows looks at a few values of one query at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from worker.core.arms import Arm
from worker.core.beliefs import Beliefs
from worker.core.eligibility import EXCLUSIONS, Codes, amounts, nanos
from worker.core.rewards import RewardModel
from worker.core.verdict import Candidate, FloatArray
from worker.money import NANOS_PER_USD


class Weighed(NamedTuple):
    """One query: values by enabled arm, in their order.

    `optimistic` is the mean reward with the exploration bonus; costs are in USD, `expected`
    after the bias correction and `predicted` before it; `reserved` are nano-dollars.
    """

    mean: list[float]
    deviation: list[float]
    optimistic: list[float]
    expected: list[float]
    predicted: list[float]
    reserved: list[int]


# Named tuples from columns, without their own constructors: these are Python functions and take twice as long.
_weighed: Callable[[tuple[Any, ...]], Weighed] = partial(tuple.__new__, Weighed)
_candidate: Callable[[tuple[Any, ...]], Candidate] = partial(tuple.__new__, Candidate)


def weigh(beliefs: Beliefs, alpha: float, context: FloatArray, tokens: float, *, quantile: bool) -> Weighed:
    """One query, context of shape (d,); `quantile`: reserve that of the cost in place of its mean."""
    means, deviations = beliefs.rewards.score(context)
    expected, high, predicted = beliefs.costs.estimate(context, tokens)
    mean, deviation = means.tolist(), deviations.tolist()
    optimistic = [m + alpha * d for m, d in zip(mean, deviation, strict=True)]
    reserved = amounts(high if quantile else expected)
    return _weighed((mean, deviation, optimistic, expected, predicted, reserved))


def weigh_many(
    beliefs: Beliefs, alpha: float | None, contexts: FloatArray, tokens: FloatArray, *, quantile: bool
) -> list[Weighed]:
    """Several queries, contexts of shape (n, d), tokens of shape (n,); `alpha` None: without deviations."""
    if alpha is None:
        mean = optimistic = beliefs.rewards.expect_many(contexts)
        deviation = np.zeros_like(mean)
    else:
        mean, deviation = beliefs.rewards.score_many(contexts)
        optimistic = mean + alpha * deviation
    estimate = beliefs.costs.estimate_many(contexts, tokens)
    columns = (
        mean,
        deviation,
        optimistic,
        estimate.expected,
        estimate.predicted,
        nanos(estimate.quantile if quantile else estimate.expected),
    )
    return list(map(_weighed, zip(*[column.tolist() for column in columns], strict=True)))


def renewed(weighed: Weighed, rewards: RewardModel, alpha: float, context: FloatArray) -> Weighed:
    """The same query with the deviations of now, context of shape (d,)."""
    mean, _, _, expected, predicted, reserved = weighed
    deviation = rewards.deviation(context).tolist()
    optimistic = [m + alpha * d for m, d in zip(mean, deviation, strict=True)]
    return _weighed((mean, deviation, optimistic, expected, predicted, reserved))


class Candidates(Collection[Candidate]):
    """Every enabled model as a query saw it. Kept as columns: a row is made when it is read."""

    __slots__ = ("_arms", "_codes", "_weighed")

    def __init__(self, arms: Sequence[Arm], weighed: Weighed, codes: Codes) -> None:
        self._arms, self._weighed, self._codes = arms, weighed, codes

    def __iter__(self) -> Iterator[Candidate]:
        weighed = self._weighed
        columns = zip(
            [arm.model for arm in self._arms],
            weighed.mean,
            weighed.deviation,
            [round(usd * NANOS_PER_USD) for usd in weighed.expected],
            [EXCLUSIONS[code] for code in self._codes],
            strict=True,
        )
        return map(_candidate, columns)

    def __len__(self) -> int:
        return len(self._codes)

    def __contains__(self, candidate: object) -> bool:
        return candidate in tuple(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
