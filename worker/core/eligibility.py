"""Which arms a query may be sent to: the exclusions in their order, and the reason when none is left.

What is left after a stage can only shrink, so an arm carries the first exclusion that
applies to it and a rejection the first stage that left nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.verdict import Exclusion, FloatArray, Reason, Request
from worker.money import NANOS_PER_USD

Codes = NDArray[np.int8]
Nanos = NDArray[np.int64]
Mask = NDArray[np.bool_]

EXCLUSIONS: Final[tuple[Exclusion | None, ...]] = (
    None, "not_allowed", "missing_tag", "context_window", "unbounded", "max_cost", "budget", "threshold",
)  # fmt: skip
ELIGIBLE, NOT_ALLOWED, MISSING_TAG, CONTEXT_WINDOW, UNBOUNDED, MAX_COST, BUDGET, THRESHOLD = range(8)
NO_BOUND: Final = -1
BYTES_PER_TOKEN: Final = 4
_LARGEST_NANOS = 4e18  # of an amount: keeps an absurd estimate inside 64 bits and still above any limit


def nanos(usd: FloatArray) -> Nanos:
    """USD as whole nano-dollars, ties to even, as `money.to_nanos` rounds."""
    return np.minimum(np.rint(usd * NANOS_PER_USD), _LARGEST_NANOS).astype(np.int64)


def amounts(usd: FloatArray) -> list[int]:
    """The same for the few arms of one query, shape (K,): faster than four calls of NumPy."""
    return [round(min(value * NANOS_PER_USD, _LARGEST_NANOS)) for value in usd.tolist()]


def prompt_tokens(request: Request) -> int | None:
    """Input tokens as given, else a quarter of the bytes, rounded up; None with an embedding alone."""
    if request.input_tokens is not None:
        return request.input_tokens
    if request.text_bytes is None:
        return None
    return -(-request.text_bytes // BYTES_PER_TOKEN)


class Screen:
    """The fixed attributes of the enabled arms, in the order of the arrays."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self._models = [arm.model for arm in arms]
        self._tags = [arm.tags for arm in arms]
        self._window = np.array([np.inf if arm.max_input_tokens is None else arm.max_input_tokens for arm in arms])
        self._output = np.array([np.inf if arm.max_output_tokens is None else arm.max_output_tokens for arm in arms])
        self._windowed = bool(np.isfinite(self._window).any())
        self._input_price = np.array([arm.input_usd_per_mtok for arm in arms])
        self._output_price = np.array([arm.output_usd_per_mtok for arm in arms])
        self._request = np.array([arm.request_usd for arm in arms])
        self._none = np.zeros(len(arms), np.int8)
        self._all = np.ones(len(arms), np.bool_)
        self._all.flags.writeable = False

    def suited(self, request: Request) -> Codes:
        """The exclusions that have nothing to do with money; the caller may change the array."""
        codes = self._none.copy()
        tokens = prompt_tokens(request) if self._windowed else None
        if tokens is not None:
            codes[self._window < tokens] = CONTEXT_WINDOW
        if request.requires:
            codes[[not request.requires <= tags for tags in self._tags]] = MISSING_TAG
        if request.models is not None:
            codes[[model not in request.models for model in self._models]] = NOT_ALLOWED
        return codes

    def eligible(self, codes: Codes) -> Mask:
        """Which arms nothing excludes, mostly all of them; not to be changed."""
        return codes == ELIGIBLE if any(codes.tolist()) else self._all

    def bounds(self, request: Request) -> Nanos:
        """The most that a call can cost at list price; `NO_BOUND` where nobody says how long it gets.

        The tokens of a prompt are at most its bytes, so without a count the bytes bound them.
        The formula is that of `Arm.price_usd`, step by step: rounding cannot put a cost above its bound.
        """
        tokens = request.input_tokens if request.input_tokens is not None else request.text_bytes
        if tokens is None:
            return np.full(len(self._none), NO_BOUND, np.int64)
        allowed = np.inf if request.max_output_tokens is None else request.max_output_tokens
        output = np.minimum(self._output, allowed)
        bounded = np.isfinite(output)
        output[~bounded] = 0.0
        usd = self._request + (self._input_price * tokens + self._output_price * output) * USD_PER_MTOK
        return np.where(bounded, nanos(usd), NO_BOUND)


def screen(
    codes: Codes, reservations: Sequence[int], max_cost: int | None, available: int | None, *, bounded_only: bool
) -> Reason | None:
    """Add the exclusions by money to `codes`, in place; the reason if no arm is left.

    `available` is what the user's window still has, None without a limit: then an arm
    without a bound stays, for there is no budget that it could break.
    """
    # There are few arms: a look at Python values is faster than a reduction by NumPy.
    if ELIGIBLE not in codes.tolist():
        return "no_model"
    if (
        bounded_only
        and available is not None
        and NO_BOUND in reservations
        and _none_left(codes, np.equal(reservations, NO_BOUND), UNBOUNDED)
    ):
        return "unbounded"
    dearest = max(reservations)
    if max_cost is not None and dearest > max_cost and _none_left(codes, np.greater(reservations, max_cost), MAX_COST):
        return "max_cost"
    if available is not None and dearest > available and _none_left(codes, np.greater(reservations, available), BUDGET):
        return "budget_exhausted"
    return None


def _none_left(codes: Codes, where: Mask, code: int) -> bool:
    """Whether no arm is left after those that `where` names got the code."""
    codes[(codes == ELIGIBLE) & where] = code
    return bool(codes.all())
