"""Bandit libraries without money: MABWiser and river, and the loop that needs no library."""

from __future__ import annotations

import numpy as np

from worker.core.verdict import FloatArray


class MabwiserLinUcb:
    """MABWiser's LinUCB. It must be fitted once before it predicts: every arm once in `start` (n, d), reward 0."""

    def __init__(self, arms: int, start: FloatArray, alpha: float = 1.0, seed: int = 0) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self.mab = MAB(list(range(arms)), LearningPolicy.LinUCB(alpha=alpha), seed=seed)
        self.mab.fit(list(range(arms)), [0.0] * arms, start[:arms])

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        return int(self.mab.predict(x[None, :]))

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:  # noqa: ARG002 - knows no money
        """One reward."""
        self.mab.partial_fit([arm], [reward], x[None, :])


class RiverLinUcb:
    """river's LinUCBDisjoint, whose contexts are dictionaries."""

    def __init__(self, arms: int, seed: int = 0) -> None:
        from river.bandit import LinUCBDisjoint
        from river.stats import Mean

        self._arms = list(range(arms))
        self._policy = LinUCBDisjoint(reward_obj=Mean(), seed=seed)

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        self._context = dict(enumerate(x.tolist()))
        return int(self._policy.pull(self._arms, self._context))

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:  # noqa: ARG002 - knows no money
        """One reward for the context just decided on."""
        self._policy.update(arm, self._context, reward)


class PlainLoop:
    """Disjoint LinUCB in a dozen lines of NumPy, without cost or budget: what the arithmetic alone takes."""

    def __init__(self, arms: int, dimension: int, alpha: float = 1.0) -> None:
        self._alpha = alpha
        self._inverse = np.tile(np.eye(dimension), (arms, 1, 1))
        self._flat = self._inverse.reshape(arms * dimension, dimension)
        self._theta = np.zeros((arms, dimension))
        self._shape = (arms, dimension)

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""
        g = self._flat.dot(x).reshape(self._shape)
        return int((self._theta.dot(x) + self._alpha * np.sqrt(g.dot(x))).argmax())

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:  # noqa: ARG002 - knows no money
        """Sherman–Morrison."""
        inverse = self._inverse[arm]
        g = inverse.dot(x)
        f = 1.0 + float(x.dot(g))
        self._theta[arm] += g * ((reward - float(x.dot(self._theta[arm]))) / f)
        inverse -= np.outer(g, g / f)
