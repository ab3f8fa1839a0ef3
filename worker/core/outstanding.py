"""Decisions whose reward is still to come: they narrow the uncertainty of their arm at once.

While feedback is late, a bonus that waits for it sends query after query to the same
uncertain arm. Counting open decisions in the deviation, and not in the mean, stops that.
A worker sees only the decisions of its own lanes; it takes the others' to be like them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from worker.core.verdict import FloatArray

LONGEST_S = 600.0  # a reward that is later than this counts as never
MOST = 5_000  # open decisions of an arm that are remembered
_PRIOR_CALLS = 20.0  # weight of the belief that every decision gets its reward


@dataclass(slots=True)
class _Open:
    """An arm's open decisions, oldest first: contexts with the time of each in seconds, and Σψψᵀ.

    Of the contexts the newest `fresh` are not in the sum yet: most are answered before anybody asks for it.
    """

    summed: FloatArray
    contexts: deque[tuple[float, FloatArray]] = field(default_factory=deque)
    fresh: int = 0

    def add(self, x: FloatArray, at_s: float) -> None:
        self.contexts.append((at_s, x))
        self.fresh += 1

    def forget(self) -> None:
        _, x = self.contexts.popleft()
        if self.fresh > len(self.contexts):
            self.fresh -= 1
        else:
            self.summed -= x[:, None] * x

    def total(self) -> FloatArray:
        if self.fresh:
            X = np.array([x for _, x in islice(reversed(self.contexts), self.fresh)])
            self.summed += X.T @ X
            self.fresh = 0
        return self.summed


class Outstanding:
    """The open decisions of one worker, by model. Contexts have shape (d,).

    `share`, above 0 and at most 1, is this worker's part of all decisions.
    """

    def __init__(self, dimension: int) -> None:
        self.share = 1.0
        self._dimension = dimension
        self._open: dict[str, _Open] = {}
        self._seen: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._rewarded = self._expired = 0

    @property
    def weight(self) -> float:
        """Rewards to come of all workers for each decision that is open here."""
        rewarded = (_PRIOR_CALLS + self._rewarded) / (_PRIOR_CALLS + self._rewarded + self._expired)
        return rewarded / self.share

    def add(self, model: str, context: FloatArray, at_s: float) -> None:
        """A decision for this model at this time."""
        own = self._open.get(model)
        if own is None:
            own = self._open[model] = _Open(np.zeros((self._dimension, self._dimension)))
        own.add(context, at_s)
        while own.contexts[0][0] < at_s - LONGEST_S or len(own.contexts) > MOST:
            own.forget()
            self._expired += 1

    def rewarded(self, model: str, count: int = 1) -> None:
        """So many rewards of this model have come; the oldest decisions are taken to be theirs."""
        own = self._open.get(model)
        for _ in range(min(count, len(own.contexts)) if own is not None else 0):
            self._rewarded += 1
            self._open[model].forget()

    def learned(self, model: str, rewards: int) -> None:
        """All rewards ever learned of this model, wherever; what is new since the last call came now.

        Of these this worker's share closes decisions of its own.
        """
        due = self._due.get(model, 0.0) + self.share * (rewards - self._seen.get(model, 0))
        self._seen[model], self._due[model] = rewards, due - int(due)
        self.rewarded(model, int(due))

    def sums(self) -> dict[str, FloatArray]:
        """Σ w ψψᵀ of each model's open decisions, arrays of shape (d, d)."""
        return {model: self.weight * own.total() for model, own in self._open.items() if own.contexts}
