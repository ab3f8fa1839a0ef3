"""Plain LinUCB: the best score, whatever it costs."""

from __future__ import annotations

from worker.core.policies.base import Choice, Sample, View, best


class Unlimited:
    """No price on money. A user's limit still decides which arms are eligible."""

    name = "unlimited"

    def plan(self, sample: Sample) -> None:
        """Nothing to prepare."""

    def choose(self, view: View) -> Choice:
        """The eligible arm with the highest score."""
        return Choice(best(view.score, view.eligible))
