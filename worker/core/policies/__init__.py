"""Budget policies: the rules that turn scores, costs and a budget into a choice."""

from worker.core.policies.base import Policy
from worker.core.policies.floor import Floor
from worker.core.policies.pacing import Pacing
from worker.core.policies.unlimited import Unlimited
from worker.core.policies.zcl import Zcl

SUPPORTED = (Pacing.name, Zcl.name, Floor.name, Unlimited.name)


def create(name: str, quality_floor: float, *, published: bool = False) -> Policy:
    """The policy of this name.

    `quality_floor` is the share of quality that `floor` keeps; `published` asks for `zcl`
    as the paper has it.

    Raises:
        ValueError: no such policy.
    """
    if name == Floor.name:
        return Floor(quality_floor)
    if name == Zcl.name:
        return Zcl(excess=not published)
    for kind in (Pacing, Unlimited):
        if name == kind.name:
            return kind()
    raise ValueError(f"policy {name!r}: one of {', '.join(SUPPORTED)}")
