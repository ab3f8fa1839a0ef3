"""One query against all arms: scores, costs, reservations and exclusions, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.core.arms import Arm
from worker.core.costs import CostEstimate
from worker.core.eligibility import EXCLUSIONS, Codes
from worker.core.verdict import Candidate, FloatArray, Verdict
from worker.money import NANOS_PER_USD, to_nanos


class Weighed(NamedTuple):
    """Values by enabled arm, in their order; `codes` are exclusions and may change, reservations are nano-dollars."""

    mean: FloatArray
    deviation: FloatArray
    estimate: CostEstimate
    reservations: list[int]
    codes: Codes

    def candidates(self, arms: Sequence[Arm]) -> tuple[Candidate, ...]:
        """Every arm as this query saw it."""
        columns = zip(
            [arm.model for arm in arms],
            self.mean.tolist(),
            self.deviation.tolist(),
            [round(usd * NANOS_PER_USD) for usd in self.estimate.expected.tolist()],
            [EXCLUSIONS[code] for code in self.codes.tolist()],
            strict=True,
        )
        return tuple(map(Candidate._make, columns))

    def routed(
        self,
        arms: Sequence[Arm],
        arm: int,
        propensity: float,
        *,
        policy: str,
        shadow_price: float | None,
        candidates: tuple[Candidate, ...],
    ) -> Verdict:
        """The verdict that sends the query to this arm."""
        return Verdict(
            reason=None,
            candidates=candidates,
            policy=policy,
            model=arms[arm].model,
            expected_reward=float(self.mean[arm]),
            uncertainty=float(self.deviation[arm]),
            propensity=propensity,
            estimated_cost_nanos=to_nanos(float(self.estimate.expected[arm])),
            predicted_cost_nanos=to_nanos(float(self.estimate.predicted[arm])),
            reservation_nanos=self.reservations[arm],
            shadow_price=shadow_price,
        )
