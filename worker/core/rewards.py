"""The surface that every reward model has, so a policy does not care which one it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from worker.core.statistics import Moments
from worker.core.verdict import FloatArray


class RewardModel(Protocol):
    """What is believed about the reward of K arms, given a context of shape (d,)."""

    @property
    def arms(self) -> int:
        """K, the number of arms."""

    @property
    def dimension(self) -> int:
        """d, the length of a context."""

    def score(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Expected reward and its standard deviation, without bonus, each of shape (K,)."""

    def score_many(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`score` for contexts of shape (n, d): two arrays of shape (n, K)."""

    def deviation(self, x: FloatArray) -> FloatArray:
        """The standard deviation alone, shape (K,)."""

    def expect_many(self, X: FloatArray) -> FloatArray:
        """The expected rewards alone, for contexts of shape (n, d): shape (n, K)."""

    def learn(self, k: int, x: FloatArray, r: float) -> None:
        """Learn the reward of arm k in context x, at the cost of a rank-one update."""

    def refresh(self, sums: Sequence[Moments]) -> None:
        """Forget what was learned and solve exactly from K sums, prior data included."""
