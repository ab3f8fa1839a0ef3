"""The delivery protocol in thousands of worlds: exact as it is, caught when one of its rules is broken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.simulation import oracle
from tests.simulation.machine import Variant, live
from tests.simulation.world import make
from worker.core import lifecycle
from worker.core.fence import Event, Fence, Source

EXACT_WORLDS = 500
BROKEN_WORLDS = 1_000  # at most; the first one that is caught is enough


def failures(variant: Variant, worlds: int, seed: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Seeds of the worlds that are not exact, and why; a tripwire counts."""
    for number in range(worlds):
        rng = random.Random(seed * 1_000_003 + number)
        world = make(rng)
        try:
            found = oracle.violations(world, live(world, variant, rng))
        except Exception as error:  # noqa: BLE001 - a broken rule may also end in the worker's own tripwire
            found = [repr(error)]
        if found:
            yield seed * 1_000_003 + number, found[:3]


@pytest.mark.parametrize("store", ["after acknowledgement", "memory"])
def test_every_world_is_exact(store: str) -> None:
    """Whatever the interleaving and wherever it crashes, every effect is applied exactly once."""
    assert list(failures(Variant(store=store), EXACT_WORLDS)) == []


@pytest.mark.parametrize(
    "variant",
    [
        Variant(order="effects first"),
        Variant(order="all at once"),
        Variant(split_batches=True),
        Variant(store="ahead"),
        Variant(held_shards="done"),
    ],
    ids=lambda variant: f"{variant.order}, split={variant.split_batches}, {variant.store}, held={variant.held_shards}",
)
def test_another_order_is_caught(variant: Variant) -> None:
    """A protocol that sends, batches, stores or commits in another order loses or doubles something."""
    assert any(failures(variant, BROKEN_WORLDS))


def _one_fence(patch: pytest.MonkeyPatch) -> None:
    def contains(self: Fence, event: Event) -> bool:
        return event.offset <= max(self.query, self.feedback)

    patch.setattr(Fence, "contains", contains)


def _no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "contains", lambda _self, _event: False)


def _parked_under_its_own_event(patch: pytest.MonkeyPatch) -> None:
    apply = lifecycle._apply

    def under_own(pending: lifecycle.Pending, feedback: lifecycle.Feedback, event: Event, lookup: object) -> object:
        if event.source is Source.QUERY and pending.decision == b"":
            event = Event(Source.FEEDBACK, feedback_offsets.pop(0) if feedback_offsets else event.offset)
        return apply(pending, feedback, event, lookup)  # type: ignore[arg-type]

    feedback_offsets: list[int] = []
    decide = lifecycle.decide

    def remembering(pending: lifecycle.Pending, **rest: object) -> object:
        feedback_offsets[:] = [record.offset for record in pending.parked]
        return decide(pending, **rest)  # type: ignore[arg-type]

    patch.setattr(lifecycle, "_apply", under_own)
    patch.setattr(lifecycle, "decide", remembering)


@pytest.mark.parametrize("break_rule", [_one_fence, _no_fence, _parked_under_its_own_event])
def test_another_fence_is_caught(
    break_rule: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fence for both topics, none, or parked feedback under its own event: each is noticed."""
    break_rule(monkeypatch)
    assert any(failures(Variant(), BROKEN_WORLDS))


def test_nothing_is_parked_without_early_feedback() -> None:
    """A world in which every query comes first leaves no parked record behind."""
    rng = random.Random(7)
    world = make(rng)
    broker = live(world, Variant(), rng)
    assert oracle.violations(world, broker) == []
