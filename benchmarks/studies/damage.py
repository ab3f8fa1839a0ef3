"""Feedback that lies, is missing or late, while a router learns without a prior."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from studies.stage import Stage
from worker.core.router import Router
from worker.core.verdict import FloatArray
from worker.evaluate.experiment import Run

FLIPPED = (0.05, 0.1, 0.2)
HEARD = (0.5, 0.1)


class Damaged(Router):
    """Learns rewards of a share of its queries, some of them turned round; costs always arrive."""

    heard = 1.0
    flipped = 0.0
    seed = 0

    def observe(
        self,
        model: str,
        context: FloatArray,
        reward: float | None = None,
        cost_usd: float | None = None,
        predicted_usd: float | None = None,
    ) -> None:
        """One outcome, after the damage."""
        draws = np.random.default_rng((self.seed, self.observations, zlib.crc32(context.tobytes()))).random(2)
        lied = None if reward is None else 1.0 - reward if draws[0] < self.flipped else reward
        super().observe(model, context, lied if draws[1] < self.heard else None, cost_usd, predicted_usd)


def feedback(stage: Stage) -> Iterator[Run]:
    """5 to 20 % of the rewards flipped; rewards for half or a tenth of the queries."""
    prior = stage.priced()
    contexts = stage.contexts(prior)
    variants = [("all feedback, true", 1.0, 0.0)]
    variants += [(f"{share:.0%} of the rewards flipped", 1.0, share) for share in FLIPPED]
    variants += [(f"rewards for {share:.0%} of the queries", share, 0.0) for share in HEARD]
    for name, heard, flipped in variants:
        router = stage.router(prior, kind=type("_Damaged", (Damaged,), {"heard": heard, "flipped": flipped}))
        yield stage.learned(name, router, contexts)
