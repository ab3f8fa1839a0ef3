"""Nano-dollars at the edges."""

from __future__ import annotations

import random
from fractions import Fraction

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.events import MAX_COST_USD
from worker.money import NANOS_PER_USD, optional_usd, to_nanos, to_usd

usd = st.floats(0, MAX_COST_USD)
nanos = st.integers(-(10**15), 10**15)


@given(nanos)
def test_whole_nano_dollars_survive_the_way_out_and_back(amount: int) -> None:
    """What is written as USD and read again is the same amount, up to a million dollars."""
    assert to_nanos(to_usd(amount)) == amount


@given(nanos)
def test_json_shows_at_most_nine_decimals(amount: int) -> None:
    """Money in events is rounded to 1e-9: no trailing digits of binary fractions."""
    written = Fraction(orjson.dumps(to_usd(amount)).decode())
    assert written == Fraction(amount, NANOS_PER_USD)


@given(usd)
def test_rounding_is_off_by_at_most_half_a_nano_dollar(amount: float) -> None:
    """The nearest whole number is taken, as far as a float can name it."""
    exact = Fraction(amount) * NANOS_PER_USD
    assert abs(to_nanos(amount) - exact) <= Fraction(1, 2) + exact / 2**52


@given(st.lists(usd, max_size=20), st.randoms())
def test_sums_do_not_depend_on_their_order(amounts: list[float], order: random.Random) -> None:
    """A replay that settles in another order ends at the same balance."""
    shuffled = amounts[:]
    order.shuffle(shuffled)
    assert sum(map(to_nanos, amounts)) == sum(map(to_nanos, shuffled))


@given(usd, usd)
def test_more_is_never_less(one: float, other: float) -> None:
    """Rounding keeps the order of amounts."""
    low, high = sorted((one, other))
    assert to_nanos(low) <= to_nanos(high)


def test_a_limit_may_be_absent() -> None:
    """None stays None; zero is a limit."""
    assert optional_usd(None) is None
    assert optional_usd(0) == 0.0


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_amount_is_refused(amount: float) -> None:
    """NaN and infinity never become a balance."""
    with pytest.raises((ValueError, OverflowError)):
        to_nanos(amount)
