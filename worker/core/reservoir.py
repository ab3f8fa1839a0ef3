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
        self._recent: list[tuple[FloatArray, float]] = []  # not written yet: one copy for many is faster
        self._filled = min(len(sample), CAPACITY)
        self._contexts[: self._filled] = sample[: self._filled]
        self._next = self._filled % CAPACITY

    def add(self, context: FloatArray, input_tokens: float) -> None:
        """Take in one query in place of the oldest."""
        self._recent.append((context, input_tokens))
        if len(self._recent) == CAPACITY:
            self._write()

    def _write(self) -> None:
        if not self._recent:
            return
        contexts, tokens = zip(*self._recent, strict=True)
        places = np.arange(self._next, self._next + len(tokens)) % CAPACITY
        self._contexts[places], self._tokens[places] = np.concatenate(contexts).reshape(len(contexts), -1), tokens
        self._filled = min(max(self._filled, self._next + len(tokens)), CAPACITY)
        self._next = (self._next + len(tokens)) % CAPACITY
        self._recent.clear()

    @property
    def contexts(self) -> FloatArray:
        """Shape (n, d), n at most `CAPACITY`; a view that later queries change."""
        self._write()
        return self._contexts[: self._filled]

    @property
    def tokens(self) -> FloatArray:
        """Input tokens, shape (n,)."""
        self._write()
        return self._tokens[: self._filled]
