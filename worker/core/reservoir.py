"""The last contexts that this worker decided on: what a policy plans with."""

from __future__ import annotations

import numpy as np

from worker.core.verdict import FloatArray

CAPACITY = 400


class Reservoir:
    """A ring of contexts (n, d) with the input tokens of each, filled from a prior's sample at first."""

    def __init__(self, sample: FloatArray, input_tokens: float) -> None:
        self._contexts = np.empty((CAPACITY, sample.shape[1]))
        self._tokens = np.full(CAPACITY, input_tokens)
        self._filled = min(len(sample), CAPACITY)
        self._contexts[: self._filled] = sample[: self._filled]
        self._next = self._filled % CAPACITY

    def add(self, context: FloatArray, input_tokens: float) -> None:
        """Take in one query in place of the oldest."""
        self._contexts[self._next] = context
        self._tokens[self._next] = input_tokens
        self._filled = max(self._filled, self._next + 1)
        self._next = (self._next + 1) % CAPACITY

    @property
    def contexts(self) -> FloatArray:
        """Shape (n, d), n at most `CAPACITY`; a view that later queries change."""
        return self._contexts[: self._filled]

    @property
    def tokens(self) -> FloatArray:
        """Input tokens, shape (n,)."""
        return self._tokens[: self._filled]
