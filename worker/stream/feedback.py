"""Feedback between wire and core: the same facts, and what is reported of their parts."""

from __future__ import annotations

from worker.core.lifecycle import Feedback, Outcome, Pending
from worker.events import Feedback as FeedbackEvent
from worker.money import to_nanos
from worker.observe import records
from worker.observe.records import Observer
from worker.stream.answer import expected_reward


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
    observe, aside, parked = observer.observe, outcome.dead_letter is not None, False
    if aside:
        observe(records.FeedbackPartHandled("record", "dead_letter"))
    for part, what in outcome.parts:
        if what == "parked":
            parked = True
        elif what in ("applied", "substituted", "duplicate", "unknown_model"):
            observe(records.FeedbackPartHandled(part, what))
            if part == "reward" and what in ("applied", "substituted"):
                _report_reward(observer, pending)
            elif part == "money" and what != "duplicate" and not aside:
                _report_money(observer, event, pending)
    if parked:
        observe(records.FeedbackPartHandled("record", "parked"))


def report_first(observer: Observer, before: Pending, after: Pending, delay_s: float) -> None:
    """Report the first feedback that a decision got."""
    if _answered(after) and not _answered(before):
        observer.observe(records.FeedbackArrived(max(0.0, delay_s)))


def _answered(pending: Pending) -> bool:
    return pending.money is not None or pending.reward is not None or pending.tokens is not None


def _report_reward(observer: Observer, pending: Pending) -> None:
    reward, choice = pending.reward, pending.choice
    if reward is None or choice is None:
        return
    as_decided = reward.model == choice.model and pending.decision is not None
    expected = expected_reward(pending.decision or b"") if as_decided else None
    observer.observe(records.RewardGiven(reward.model, reward.value, expected))


def _report_money(observer: Observer, event: FeedbackEvent, pending: Pending) -> None:
    money, choice = pending.money, pending.choice
    if money is None or choice is None:
        return
    # A model that is not known here is any text; as a label it would make a series of its own.
    model = money.model or ""
    comparable = money.model == choice.model and not money.failed
    observer.observe(records.MoneySettled(model, money.nanos, choice.expected if comparable else None))
    if event.status != "ok":
        observer.observe(records.CallFailed(model, event.status))
    if choice.bounded and money.nanos > choice.reservation:
        observer.observe(records.CostAboveBound(choice.model, money.nanos, choice.reservation))
