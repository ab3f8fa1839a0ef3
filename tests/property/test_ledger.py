"""The ledger to the nano-dollar: what windows settle and reserve, worked out again from the events alone."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tests.property.lane import QUICK, Lane, World, orders, worlds
from tests.unit.core.lives import lookup
from worker.core.arms import Arm
from worker.core.lifecycle import Choice, Feedback

NANOS_PER_USD = 10**9
MILLION = 10**6


def settled(choice: Choice, feedback: list[Feedback]) -> Fraction | None:
    """Nano-dollars of the first feedback that says what the call cost, in exact arithmetic; None while none does."""
    for said in feedback:
        known = said.model in (None, choice.model) or lookup(said.model or "") is not None
        if said.cost_nanos is not None:
            return Fraction(said.cost_nanos)
        if said.failed and known:
            return Fraction(0)
        if said.output_tokens is not None and known:
            arm = choice.arm if said.model in (None, choice.model) else lookup(said.model or "")
            assert arm is not None
            assert said.input_tokens is not None
            return _priced(arm, said.input_tokens, said.output_tokens)
    return None


def _priced(arm: Arm, input_tokens: int, output_tokens: int) -> Fraction:
    tokens = Fraction(arm.input_usd_per_mtok) * input_tokens + Fraction(arm.output_usd_per_mtok) * output_tokens
    return (Fraction(arm.request_usd) + tokens / MILLION) * NANOS_PER_USD


def expected(world: World) -> dict[int, tuple[Fraction, int, int]]:
    """Settled and reserved nano-dollars and queries of each window."""
    windows: dict[int, tuple[Fraction, int, int]] = {}
    for offset, choice in enumerate(world.choices):
        spent, reserved, queries = windows.get(world.windows[offset], (Fraction(0), 0, 0))
        cost = None if choice is None else settled(choice, [said for about, said in world.feedback if about == offset])
        held = choice.reservation if choice is not None and cost is None else 0
        windows[world.windows[offset]] = (spent + (cost or 0), reserved + held, queries + 1)
    return windows


def agree(lane: Lane, world: World) -> None:
    """The same windows; a price in tokens may be rounded, by half a nano-dollar each."""
    wanted = expected(world)
    found = lane.windows()
    assert {window: entry[1:] for window, entry in wanted.items()} == {
        window: (reserved, queries) for window, (_, reserved, _, queries) in found.items()
    }
    for window, (spent, _, queries) in wanted.items():
        assert abs(found[window][0] - spent) <= Fraction(queries, 2)
        if spent.denominator == 1:
            assert found[window][0] == spent


@QUICK
@given(worlds(), orders)
def test_every_window_adds_up(world: World, order: list[bool]) -> None:
    """Late, early, partial, repeated, substituted or failed: each call settles once, in its query's window."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    agree(lane, world)


@QUICK
@given(worlds(), orders, orders, st.data())
def test_windows_add_up_after_a_replay(world: World, order: list[bool], again: list[bool], data: st.DataObject) -> None:
    """Read again from anywhere, also while queries of an earlier window are open."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    queries = data.draw(st.integers(0, len(world.choices)))
    lane.replay(queries, data.draw(st.integers(0, len(world.feedback))), again)
    agree(lane, world)


@QUICK
@given(worlds(), orders, st.floats(0, 1000), st.floats(0, 1000))
def test_prices_that_change_later_do_not_matter(
    world: World, order: list[bool], input_usd: float, output_usd: float
) -> None:
    """The decided model's tokens settle at the prices of the decision, whatever the catalog says meanwhile."""
    own = replace(world, feedback=tuple((about, said._replace(model=None)) for about, said in world.feedback))
    lane = Lane(own, lookup=lambda model: Arm(model, input_usd, output_usd))
    lane.replay(0, 0, order)
    agree(lane, own)


@QUICK
@given(worlds(), orders, orders)
def test_replay_under_other_prices_settles_nothing_again(world: World, order: list[bool], again: list[bool]) -> None:
    """What another model cost was fixed when it was applied: a replay after a price change leaves it."""
    lane = Lane(world)
    lane.replay(0, 0, order)
    before = lane.windows()
    lane.lookup = lambda model: Arm(model, 999.0, 999.0)
    lane.replay(0, 0, again)
    assert lane.windows() == before
