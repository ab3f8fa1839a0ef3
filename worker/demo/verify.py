"""Does what came out agree with what went in: decisions, repeats, dead letters, lessons learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.demo.plan import Plan
from worker.demo.tally import Tally


def problems(tally: Tally, plan: Plan, learned: Sequence[dict[str, Any]], *, all_learn: bool) -> list[str]:
    """One line for everything that the public contract promises and this run did not show.

    `all_learn`: every reward is learned, which preset `paper` does not do.
    """
    again = tally.sent["repeated queries"]
    found = [
        _differs("queries answered", len(tally.answers), len(plan.queries)),
        # Delivery is at least once: a restarted worker may repeat a decision by itself.
        _differs("repeated queries answered", min(tally.repeats, again), again),
        _differs("repeated decisions with other bytes", tally.repeats_different, 0),
        *(
            _differs(f"dead letters {code}", tally.dead[code], tally.expected_dead[code])
            for code in sorted(set(tally.dead) | set(tally.expected_dead))
        ),
    ]
    if all_learn:
        found.append(_differs("rewards learned", total(learned, "observations"), routed(tally)))
    found.append(_differs("costs settled", total(learned, "costs_settled"), routed(tally)))
    return [line for line in found if line is not None]


def routed(tally: Tally) -> int:
    """Queries that were sent to a model: each of them gets one reward and one cost."""
    return len(tally.answers) - tally.rejected


def total(learned: Sequence[dict[str, Any]], count: str) -> int:
    """Sum of one of the counts of `pilot models list` over all models."""
    return sum(int(each[count]) for each in learned)


def _differs(what: str, got: int, wanted: int) -> str | None:
    return None if got == wanted else f"{what}: {got:,} instead of {wanted:,}"
