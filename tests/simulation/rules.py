"""Broken rules: each takes one rule of the protocol away, by patching the worker's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker import codecs
from worker.core import ledger, lifecycle
from worker.core.fence import Event, Fence, Source
from worker.core.lifecycle import Feedback, Outcome, Pending
from worker.core.shard import Shard
from worker.stream import effects
from worker.stream.route import RouteHandler
from worker.stream.sweep import Sweeper

Break = Callable[[pytest.MonkeyPatch], None]


def one_fence_for_both_topics(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "contains", lambda self, event: event.offset <= max(self.query, self.feedback))


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "contains", lambda _self, _event: False)


def parked_under_its_own_event(patch: pytest.MonkeyPatch) -> None:
    apply, decide, offsets = lifecycle._apply, lifecycle.decide, list[int]()

    def under_own(pending: Pending, feedback: Feedback, event: Event, lookup: Any) -> Any:
        if event.source is Source.QUERY and pending.decision == b"":
            event = Event(Source.FEEDBACK, offsets.pop(0) if offsets else event.offset)
        return apply(pending, feedback, event, lookup)

    def remembering(pending: Pending, **rest: Any) -> Any:
        offsets[:] = [record.offset for record in pending.parked]
        return decide(pending, **rest)

    patch.setattr(lifecycle, "_apply", under_own)
    patch.setattr(lifecycle, "decide", remembering)


def parked_in_any_order(patch: pytest.MonkeyPatch) -> None:
    decide = lifecycle.decide
    patch.setattr(lifecycle, "decide", lambda held, **rest: decide(held._replace(parked=held.parked[::-1]), **rest))


def pending_by_query_alone(patch: pytest.MonkeyPatch) -> None:
    owners: dict[str, str] = {}

    def pack(user_id: str, query_id: str) -> bytes:
        return f"{owners.setdefault(query_id, user_id)}\0{query_id}".encode()

    patch.setattr(codecs, "pack_pending_key", pack)


def every_feedback_counts(patch: pytest.MonkeyPatch) -> None:
    feed = lifecycle.feed

    def again(pending: Pending, *rest: Any) -> tuple[Pending, Outcome]:
        return feed(pending._replace(money=None), *rest)

    patch.setattr(lifecycle, "feed", again)


def learned_for_the_decided_model(patch: pytest.MonkeyPatch) -> None:
    apply = lifecycle._apply

    def as_decided(pending: Pending, feedback: Feedback, event: Event, lookup: Any) -> Any:
        known = feedback.model is None or lookup(feedback.model) is not None
        return apply(pending, feedback._replace(model=None) if known else feedback, event, lookup)

    patch.setattr(lifecycle, "_apply", as_decided)


def reservation_kept_after_settling(patch: pytest.MonkeyPatch) -> None:
    hold = ledger._hold
    patch.setattr(ledger, "_hold", lambda spend, pending, sign: hold(spend, pending, sign) if sign > 0 else spend)


def feedback_settles_in_the_present_window(patch: pytest.MonkeyPatch) -> None:
    apply, handle, latest = effects.apply, RouteHandler.handle, [0]

    def noting(self: RouteHandler, record: Any, prepared: Any) -> None:
        latest[0] = ledger.window_start(record.timestamp / 1000, self._settings.budget_window_s, 0)
        handle(self, record, prepared)

    def here(journal: Any, partition: int, user_id: str, pending: Pending, event: Event, **rest: Any) -> Any:
        moved = pending._replace(window=latest[0]) if event.source is Source.FEEDBACK else pending
        return apply(journal, partition, user_id, moved, event, **rest)

    patch.setattr(RouteHandler, "handle", noting)
    patch.setattr(effects, "apply", here)


def one_write_for_each_part(patch: pytest.MonkeyPatch) -> None:
    apply = Shard.apply

    def in_parts(self: Shard, event: Event, lesson: Any) -> bool:
        first = apply(self, event, lesson._replace(output_tokens=None, guessed_tokens=None))
        return apply(self, event, lesson._replace(reward=None)) or first

    patch.setattr(Shard, "apply", in_parts)


def forgotten_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sweeper, "_settled_in_log", lambda *_: True)


def forgotten_in_a_backlog(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sweeper, "_is_current", lambda *_: True)
    committed = Sweeper._committed_in

    def whatever(self: Sweeper, source: Source, partition: int) -> int:
        return committed(self, source, partition) or 10**9

    patch.setattr(Sweeper, "_committed_in", whatever)


def forgotten_before_the_dead_letter_is_sent(patch: pytest.MonkeyPatch) -> None:
    def silently(self: Sweeper, partition: int, key: bytes, pending: Pending, now: int) -> None:
        del pending, now
        self._forget(partition, key)

    patch.setattr(Sweeper, "_expire_early", silently)


def nothing_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sweeper, "_let_go", lambda *_: None)


def windows_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sweeper, "_close_windows", lambda *_: False)


def refusals_are_not_remembered(patch: pytest.MonkeyPatch) -> None:
    park = lifecycle.park

    def without(pending: Pending, record: Any, feedback: Feedback) -> tuple[Pending, Outcome]:
        held, outcome = park(pending, record, feedback)
        return (pending if outcome.dead_letter else held), outcome

    patch.setattr(lifecycle, "park", without)


def rate_taken_over_by_any_event(patch: pytest.MonkeyPatch) -> None:
    spend = RouteHandler._spend

    def opened(self: RouteHandler, partition: int, key: Any) -> Any:
        return self._tenure.journal.state.spend.get(partition, key) or spend(self, partition, key)

    patch.setattr(RouteHandler, "_spend", opened)


PATCHES: tuple[Break, ...] = (
    one_fence_for_both_topics,
    no_fence,
    parked_under_its_own_event,
    parked_in_any_order,
    pending_by_query_alone,
    every_feedback_counts,
    learned_for_the_decided_model,
    reservation_kept_after_settling,
    feedback_settles_in_the_present_window,
    one_write_for_each_part,
    forgotten_before_the_commit,
    forgotten_in_a_backlog,
    forgotten_before_the_dead_letter_is_sent,
    nothing_is_forgotten,
    windows_are_kept,
    refusals_are_not_remembered,
    rate_taken_over_by_any_event,
)
