"""Feedback between wire and core: the same facts, and how their parts are counted."""

from __future__ import annotations

from worker.core.lifecycle import Feedback, Outcome
from worker.events import Feedback as FeedbackEvent
from worker.money import to_nanos
from worker.observe import records
from worker.observe.records import Observer


def core_feedback(event: FeedbackEvent) -> Feedback:
    """The core's view of a feedback event."""
    return Feedback(
        reward=event.reward,
        cost_nanos=None if event.cost_usd is None else to_nanos(event.cost_usd),
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        failed=event.failed,
        model=event.model,
    )


def count_parts(observer: Observer, outcome: Outcome) -> None:
    """Count what became of each part; a replay is not counted again."""
    if outcome.dead_letter is not None:
        observer.observe(records.FeedbackPartHandled("record", "dead_letter"))
    for part, what in outcome.parts:
        if what in ("applied", "substituted", "duplicate", "unknown_model"):
            observer.observe(records.FeedbackPartHandled(part, what))
    if any(what == "parked" for _, what in outcome.parts):
        observer.observe(records.FeedbackPartHandled("record", "parked"))
