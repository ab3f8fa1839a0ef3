"""Budget policies: the rules that turn scores, costs and a budget into a choice."""

from worker.core.policies.base import Policy
from worker.core.policies.pacing import Pacing
from worker.core.policies.unlimited import Unlimited

SUPPORTED = ("pacing", "unlimited")


def create(name: str, quality_floor: float) -> Policy:  # noqa: ARG001 - only `floor` has one
    """The policy of this name.

    Raises:
        ValueError: no such policy.
    """
    if name == Pacing.name:
        return Pacing()
    if name == Unlimited.name:
        return Unlimited()
    raise ValueError(f"policy {name!r}: one of {', '.join(SUPPORTED)}")
