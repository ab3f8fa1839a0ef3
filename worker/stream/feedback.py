"""Feedback between wire and core: the same facts, and what is reported of their parts."""

from __future__ import annotations

from worker.core.lifecycle import Feedback, Outcome, Pending
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


def report(observer: Observer, event: FeedbackEvent, outcome: Outcome, pending: Pending) -> None:
    """Report what became of each part; a replay is not counted again. `pending` is the record after it."""
    _count_parts(observer, outcome)
    settled = any(
        part == "money" and what in ("applied", "substituted", "unknown_model") for part, what in outcome.parts
    )
    if settled and outcome.dead_letter is None:
        _report_money(observer, event, pending)


def _report_money(observer: Observer, event: FeedbackEvent, pending: Pending) -> None:
    money, choice = pending.money, pending.choice
    if money is None or choice is None:
        return
    if money.model is not None:
        observer.observe(records.MoneySettled(money.model, money.nanos))
    if event.status != "ok":
        observer.observe(records.CallFailed(money.model or event.model or "", event.status))
    if choice.bounded and money.nanos > choice.reservation:
        observer.observe(records.CostAboveBound(choice.model, money.nanos, choice.reservation))


def _count_parts(observer: Observer, outcome: Outcome) -> None:
    if outcome.dead_letter is not None:
        observer.observe(records.FeedbackPartHandled("record", "dead_letter"))
    for part, what in outcome.parts:
        if what in ("applied", "substituted", "duplicate", "unknown_model"):
            observer.observe(records.FeedbackPartHandled(part, what))
    if any(what == "parked" for _, what in outcome.parts):
        observer.observe(records.FeedbackPartHandled("record", "parked"))
