"""Exclusions and reasons: in the order of the contract, the first that applies."""

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.eligibility import EXCLUSIONS, NO_BOUND, Screen, amounts, nanos, prompt_tokens, screen
from worker.core.verdict import Request
from worker.money import to_nanos

CONTEXT = np.zeros(2)


def request(**fields: object) -> Request:
    return Request("q", CONTEXT, **fields)  # type: ignore[arg-type]


def excluded(arms: list[Arm], asked: Request) -> list[str | None]:
    return [EXCLUSIONS[code] for code in Screen(arms).suited(asked)]


class TestSuited:
    """Exclusions that have nothing to do with money."""

    def test_allow_list_then_tags_then_room(self) -> None:
        """An arm that fails several ways carries the first of not_allowed, missing_tag, context_window."""
        arms = [
            Arm("fits", tags=frozenset({"eu"}), max_input_tokens=100),
            Arm("small", tags=frozenset({"eu"}), max_input_tokens=10),
            Arm("untagged", max_input_tokens=10),
            Arm("other", max_input_tokens=10),
        ]
        asked = request(input_tokens=50, requires=frozenset({"eu"}), models=frozenset({"fits", "small", "untagged"}))
        assert excluded(arms, asked) == [None, "context_window", "missing_tag", "not_allowed"]

    def test_a_prompt_as_long_as_the_window_fits(self) -> None:
        """The window is the largest number of tokens, not the first that is too many."""
        assert excluded([Arm("m", max_input_tokens=50)], request(input_tokens=50)) == [None]

    def test_bytes_stand_in_for_tokens(self) -> None:
        """Without a count a prompt has a quarter of its bytes as tokens, rounded up."""
        assert excluded([Arm("m", max_input_tokens=2)], request(text_bytes=8)) == [None]
        assert excluded([Arm("m", max_input_tokens=2)], request(text_bytes=9)) == ["context_window"]

    def test_an_embedding_alone_fits_everywhere(self) -> None:
        """Of a query without text and count nobody knows the length, so no window excludes it."""
        assert prompt_tokens(request()) is None
        assert excluded([Arm("m", max_input_tokens=1)], request()) == [None]


class TestBounds:
    """The most that a call can cost."""

    def test_is_the_list_price_of_all_tokens(self) -> None:
        """Input tokens and the model's largest output at list price, plus the price of the request."""
        arm = Arm("m", input_usd_per_mtok=3.0, output_usd_per_mtok=15.0, request_usd=0.001, max_output_tokens=400)
        bound = Screen([arm]).bounds(request(input_tokens=1_000))
        assert bound.tolist() == [to_nanos(arm.price_usd(1_000, 400))]

    def test_the_smaller_output_limit_counts(self) -> None:
        """The query may allow less than the model can, and the other way round."""
        arms = [Arm("m", output_usd_per_mtok=1e6, max_output_tokens=400)]
        assert Screen(arms).bounds(request(input_tokens=0, max_output_tokens=10)).tolist() == [to_nanos(10.0)]
        assert Screen(arms).bounds(request(input_tokens=0, max_output_tokens=900)).tolist() == [to_nanos(400.0)]

    def test_bytes_bound_the_tokens(self) -> None:
        """Without a count every byte counts as a token."""
        arms = [Arm("m", input_usd_per_mtok=1e6, max_output_tokens=1)]
        assert Screen(arms).bounds(request(text_bytes=7)).tolist() == [to_nanos(7.0)]

    def test_there_is_none_without_a_length(self) -> None:
        """No output limit at all, or neither text nor input tokens: no bound."""
        arms = [Arm("open"), Arm("closed", max_output_tokens=5)]
        assert Screen(arms).bounds(request(input_tokens=5))[0] == NO_BOUND
        assert Screen(arms).bounds(request()).tolist() == [NO_BOUND, NO_BOUND]

    @pytest.mark.parametrize("tokens", [1, 7, 999, 123_457, 10**9])
    def test_no_settlement_exceeds_it(self, tokens: int) -> None:
        """A call with at most these tokens settles at no more than the bound, to the nano-dollar."""
        arm = Arm("m", input_usd_per_mtok=0.37, output_usd_per_mtok=1.13, request_usd=1e-5, max_output_tokens=tokens)
        bound = int(Screen([arm]).bounds(request(input_tokens=tokens))[0])
        assert to_nanos(arm.price_usd(tokens, tokens)) <= bound
        assert to_nanos(arm.price_usd(tokens - 1, tokens - 1)) <= bound


class TestScreen:
    """Exclusions by money and the reason of a rejection."""

    def test_no_arms_or_none_suited_is_no_model(self) -> None:
        """Nothing enabled, or everything excluded already."""
        assert screen([], [], None, None, bounded_only=False) == "no_model"
        assert screen([1], [5], None, 9, bounded_only=False) == "no_model"

    def test_reasons_come_in_order(self) -> None:
        """Each stage is the reason only if an arm reached it."""
        codes = [0, 0, 0]
        reservations = [NO_BOUND, 50, 20]
        assert screen(codes, reservations, 30, 10, bounded_only=True) == "budget_exhausted"
        assert [EXCLUSIONS[code] for code in codes] == ["unbounded", "max_cost", "budget"]

    def test_all_unbounded(self) -> None:
        """With a budget and no bound anywhere the reason is unbounded."""
        codes = [0, 0]
        assert screen(codes, [NO_BOUND, NO_BOUND], 1, 10, bounded_only=True) == "unbounded"

    def test_all_above_the_callers_limit(self) -> None:
        """Every reservation above max_cost_usd."""
        assert screen([0, 0], [5, 6], 4, 100, bounded_only=False) == "max_cost"

    def test_exactly_what_is_left_is_enough(self) -> None:
        """A reservation equal to the remaining budget, or to the caller's limit, passes."""
        codes = [0]
        assert screen(codes, [10], 10, 10, bounded_only=False) is None
        assert codes == [0]

    def test_a_user_without_limit_needs_no_bound(self) -> None:
        """Without a budget an unbounded arm stays eligible."""
        codes = [0]
        assert screen(codes, [7], None, None, bounded_only=True) is None


def test_amounts_beyond_64_bits_stay_huge() -> None:
    """An absurd estimate becomes a huge amount, never a negative one."""
    assert nanos(np.array([1e30]))[0] > 10**18


def test_amounts_of_one_query_are_those_of_a_table() -> None:
    """Both forms round and cap alike: ties to even, infinity to the largest amount."""
    usd = np.array([0.0, 2.5e-9, 3.5e-9, 1.2345678915, 1e30, np.inf])
    assert amounts(usd.tolist()) == nanos(usd).tolist()


def test_eligible_arms_are_those_without_exclusion() -> None:
    """With no exclusion all arms, otherwise those whose code says so."""
    screened = Screen([Arm("a"), Arm("b")])
    assert list(screened.eligible([0, 0])) == [True, True]
    assert screened.eligible([0, 5]) == [True, False]
