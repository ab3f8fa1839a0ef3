"""Hyper-parameters chosen again by evidence while a router without a prior learns."""

from __future__ import annotations

from collections.abc import Iterator

from studies.stage import Stage
from worker.core.coupled import CoupledArms
from worker.core.evidence import choose
from worker.core.prior import Prior
from worker.core.router import MakeBeliefs, Router, RouterOptions
from worker.core.statistics import Moments
from worker.core.verdict import FloatArray
from worker.evaluate.experiment import Run

FIRST = (200, 500, 1_000)


class Rechosen(Router):
    """Chooses at `first` rewards, and again whenever they have doubled."""

    first = FIRST[0]

    def __init__(self, prior: Prior, options: RouterOptions, make_beliefs: MakeBeliefs | None = None) -> None:
        super().__init__(prior, options, make_beliefs)
        self._dimension, self._next = prior.projection.dimension, self.first
        self._sums: dict[int, Moments] = {}

    def observe(
        self,
        model: str,
        context: FloatArray,
        reward: float | None = None,
        cost_usd: float | None = None,
        predicted_usd: float | None = None,
    ) -> None:
        """One outcome, and at the thresholds a new solve with other hyper-parameters."""
        super().observe(model, context, reward, cost_usd, predicted_usd)
        if reward is not None:
            self._sums.setdefault(self._index[model], Moments.zeros(self._dimension)).learn(context, reward)
        if self.observations >= self._next:
            self._next *= 2
            sums = [self._sums.get(k, Moments.zeros(self._dimension)) for k in range(len(self._arms))]
            chosen = CoupledArms(len(sums), self._dimension, choose(sums))
            chosen.refresh(sums)
            self._beliefs.rewards = chosen
            self._until_plan = 0


def evidence(stage: Stage) -> Iterator[Run]:
    """Fixed, and by evidence from so many rewards on."""
    prior = stage.priced()
    contexts = stage.contexts(prior)
    yield stage.learned("fixed", stage.router(prior), contexts)
    for first in FIRST:
        router = stage.router(prior, kind=type("_Rechosen", (Rechosen,), {"first": first}))
        yield stage.learned(f"by evidence from {first} rewards", router, contexts)
