"""The delivery protocol in thousands of worlds: exact as it is, caught when one of its rules is broken."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.simulation import oracle
from tests.simulation.machine import Variant, live
from tests.simulation.rules import PATCHES, Break
from tests.simulation.world import make

EXACT_WORLDS = 200
BROKEN_WORLDS = 2_000  # at most; the first one that is caught is enough
WRONG_ORDERS = {
    "effects are sent before pending": Variant(order="effects first"),
    "everything is sent at once": Variant(order="all at once"),
    "each agent has a batch of its own": Variant(split_batches=True),
    "the store is written before the acknowledgement": Variant(store="ahead"),
    "a worker sends what it no longer owns": Variant(owned=False),
    "state is read before the encoding": Variant(reread=False),
    "offsets are committed while shards are held": Variant(held_shards="done"),
    "offsets are committed when handled": Variant(commit="when handled"),
    "what is not acknowledged is evicted": Variant(evict="anything"),
}


def failures(variant: Variant, worlds: int, seed: int = 1, first: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Seeds of the worlds that are not exact, and why; a tripwire counts."""
    for number in range(first, first + worlds):
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


@pytest.mark.parametrize("wrong", WRONG_ORDERS)
def test_another_order_is_caught(wrong: str) -> None:
    """A protocol that sends, batches, stores or reads in another order loses or doubles something."""
    assert any(failures(WRONG_ORDERS[wrong], BROKEN_WORLDS))


@pytest.mark.parametrize("break_rule", PATCHES, ids=lambda rule: rule.__name__)
def test_broken_rule_is_caught(break_rule: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one of the rules for fences, parts, windows and expiry some world is wrong."""
    break_rule(monkeypatch)
    assert any(failures(Variant(), BROKEN_WORLDS))
