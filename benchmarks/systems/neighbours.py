"""A kNN router, the usual non-parametric baseline: it looks its scores up among known prompts and never learns."""

from __future__ import annotations

import numpy as np

from worker.core.verdict import FloatArray

NEIGHBOURS = 50
_PRICES = np.concatenate(([0.0], np.geomspace(1e-2, 1e6, 200)))  # reward per USD that are tried


class Neighbours:
    """argmax mean reward − λ·mean cost of the nearest prompts; λ meets the mean cost on the known ones.

    Args:
        embeddings: of the known prompts, unit length, shape (n, E).
        rewards: 0 to 1, shape (n, K).
        costs: USD, shape (n, K).
        target_usd: mean cost of a call that λ is set for.
    """

    def __init__(self, embeddings: FloatArray, rewards: FloatArray, costs: FloatArray, target_usd: float) -> None:
        self._embeddings, self._rewards, self._costs = embeddings, rewards, costs
        likeness = embeddings @ embeddings.T
        np.fill_diagonal(likeness, -np.inf)  # nobody is their own neighbour
        nearest = np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        reward, cost = rewards[nearest].mean(axis=1), costs[nearest].mean(axis=1)
        rows = np.arange(len(embeddings))
        spent = np.array([costs[rows, (reward - price * cost).argmax(axis=1)].mean() for price in _PRICES])
        within = np.flatnonzero(spent <= target_usd)
        self._price = float(_PRICES[within[0]] if len(within) else _PRICES[-1])

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for an embedding of shape (E,)."""
        nearest = np.argpartition(-(self._embeddings @ x), NEIGHBOURS)[:NEIGHBOURS]
        value = self._rewards[nearest].mean(axis=0) - self._price * self._costs[nearest].mean(axis=0)
        return int(value.argmax())

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:
        """Nothing: it knows the scores of its prompts and no others."""
