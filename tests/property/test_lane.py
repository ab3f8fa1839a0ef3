"""Ledger, lifecycle and shards under any interleaving, repetition and replay of both topics."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.property.lane import QUICK, Lane, World, orders, worlds


def straight(world: World) -> Lane:
    """Every query first, then every feedback."""
    lane = Lane(world)
    lane.replay(0, 0, [])
    return lane


@QUICK
@given(worlds(), orders)
def test_any_interleaving_ends_alike(world: World, order: list[bool]) -> None:
    """Money, reward and tokens count once each, whether feedback was early or late."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    assert lane.totals() == straight(world).totals()


@QUICK
@given(worlds(), orders, orders, st.data())
def test_replaying_any_part_changes_nothing(
    world: World, order: list[bool], again: list[bool], data: st.DataObject
) -> None:
    """Reading both topics again from anywhere, in another interleaving, leaves records and sums as they are."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    pending, totals = dict(lane.pending), lane.totals()
    queries = data.draw(st.integers(0, len(world.choices)))
    feedback = data.draw(st.integers(0, len(world.feedback)))
    lane.replay(queries, feedback, again)
    assert all(lane.pending[number] is held for number, held in pending.items())
    assert lane.totals() == totals


@QUICK
@given(worlds(), orders, orders, st.data())
def test_crash_between_the_stages_is_mended(
    world: World, order: list[bool], again: list[bool], data: st.DataObject
) -> None:
    """Pending durable further than spend and shards, and both further than the commit: the replay mends it."""
    total = len(world.choices) + len(world.feedback)
    arbiter = data.draw(st.integers(0, total))
    others = data.draw(st.integers(0, arbiter))
    committed = data.draw(st.integers(0, others))
    lane, after_crash = Lane(world), Lane(world)
    read = [(0, 0)]
    turns = iter(order)
    for number in range(arbiter):
        if number == others:
            after_crash = lane.copy()
        queries, feedback = read[-1]
        wanted = next(turns, True)
        if queries < len(world.choices) and (wanted or feedback == len(world.feedback)):
            lane.query(queries)
            read.append((queries + 1, feedback))
        else:
            lane.feedback(feedback)
            read.append((queries, feedback + 1))
    if others == arbiter:
        after_crash = lane.copy()
    after_crash.pending = dict(lane.pending)
    after_crash.replay(*read[committed], again)
    assert after_crash.totals() == straight(world).totals()


@QUICK
@given(worlds(), orders)
def test_what_is_reserved_is_what_is_open(world: World, order: list[bool]) -> None:
    """Each window holds the reservations of its own unsettled decisions, and nothing once all are settled."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    for window, (_, reserved, expected, _) in lane.windows().items():
        mine = [held for held in lane.pending.values() if held.window == window and held.money is None]
        assert reserved == sum(held.reservation for held in mine)
        assert expected == sum(held.expected for held in mine)


@QUICK
@given(worlds(), orders)
def test_repeated_feedback_counts_once(world: World, order: list[bool]) -> None:
    """A caller who sends every feedback again under new offsets changes no sum."""
    doubled = replace(world, feedback=world.feedback + world.feedback[:2])
    lane = Lane(doubled)
    lane.replay(0, 0, order)
    assert lane.totals() == straight(world).totals()
