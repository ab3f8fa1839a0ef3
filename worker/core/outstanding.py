"""Decisions whose reward has not come yet: their contexts, by arm, weighted by how often rewards come.

They narrow the deviation of the reward model and nothing else (see `coupled`), and only
for ten minutes: what has not been rated by then is taken as never rated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from worker.core.verdict import FloatArray

HORIZON_S = 600.0
_PRIOR_DECISIONS = 5.0  # before any is resolved, every decision is taken to be rated


@dataclass(slots=True)
class _Arm:
    """Σψψᵀ of the open decisions, and how the resolved ones ended."""

    A: FloatArray
    open: int = 0
    rewarded: int = 0
    resolved: int = 0

    def leave(self, context: FloatArray) -> None:
        self.open -= 1
        if self.open:
            self.A -= np.outer(context, context)
        else:
            self.A[:] = 0.0  # what rounding left of the differences

    @property
    def weight(self) -> float:
        return (self.rewarded + _PRIOR_DECISIONS) / (self.resolved + _PRIOR_DECISIONS)


@dataclass(slots=True)
class Outstanding:
    """The open decisions of one worker.

    `share` is the part of all traffic that this worker sees, for the open decisions
    of the others: with N workers 1/N.
    """

    dimension: int
    share: float = 1.0
    _arms: dict[str, _Arm] = field(default_factory=dict)
    _open: dict[str, tuple[str, FloatArray]] = field(default_factory=dict)
    _times: deque[tuple[float, str]] = field(default_factory=deque)

    def opened(self, key: str, model: str, context: FloatArray, at: float) -> None:
        """A decision was sent at time `at`, seconds on a clock that does not go back."""
        if key in self._open:
            return
        self._open[key] = (model, context)
        self._times.append((at, key))
        arm = self._arm(model)
        arm.A += np.outer(context, context)
        arm.open += 1

    def rewarded(self, key: str) -> bool:
        """Its reward came; whether it was still open."""
        return self._close(key, rewarded=True)

    def expire(self, now: float) -> None:
        """Give up what is older than ten minutes."""
        while self._times and self._times[0][0] <= now - HORIZON_S:
            self._close(self._times.popleft()[1], rewarded=False)

    def weight(self, model: str) -> float:
        """Probability that a decision for this model is rated, seen so far."""
        return self._arm(model).weight

    def sums(self, model: str) -> FloatArray:
        """Σ w ψψᵀ of all workers' open decisions for a model, shape (d, d)."""
        arm = self._arm(model)
        weighted: FloatArray = arm.A * (arm.weight / self.share)
        return weighted

    def __len__(self) -> int:
        return len(self._open)

    def _arm(self, model: str) -> _Arm:
        arm = self._arms.get(model)
        if arm is None:
            arm = self._arms[model] = _Arm(np.zeros((self.dimension, self.dimension)))
        return arm

    def _close(self, key: str, *, rewarded: bool) -> bool:
        found = self._open.pop(key, None)
        if found is None:
            return False
        model, context = found
        arm = self._arm(model)
        arm.leave(context)
        arm.resolved += 1
        arm.rewarded += rewarded
        return True
