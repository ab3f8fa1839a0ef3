"""Which arms a query may be sent to: the exclusions in their order, and the reason when none is left.

What is left after a stage can only shrink, so an arm carries the first exclusion that
applies to it and a rejection the first stage that left nothing. There are few arms, and
for few values lists are faster than arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.core.arms import USD_PER_MTOK, Arm
from worker.core.verdict import Exclusion, FloatArray, Reason, Request
from worker.money import NANOS_PER_USD

Codes = Sequence[int]
Nanos = NDArray[np.int64]
Mask = Sequence[bool]

EXCLUSIONS: Final[tuple[Exclusion | None, ...]] = (
    None, "not_allowed", "missing_tag", "context_window", "unbounded", "max_cost", "budget", "threshold",
)  # fmt: skip
ELIGIBLE, NOT_ALLOWED, MISSING_TAG, CONTEXT_WINDOW, UNBOUNDED, MAX_COST, BUDGET, THRESHOLD = range(8)
NO_BOUND: Final = -1
BYTES_PER_TOKEN: Final = 4
_LARGEST_NANOS = 4 * 10**18  # of an amount: keeps an absurd estimate inside 64 bits and still above any limit
_LARGEST_USD = _LARGEST_NANOS / NANOS_PER_USD


def nanos(usd: FloatArray) -> Nanos:
    """USD as whole nano-dollars, ties to even, as `money.to_nanos` rounds."""
    return np.minimum(np.rint(usd * NANOS_PER_USD), _LARGEST_NANOS).astype(np.int64)


def amounts(usd: list[float]) -> list[int]:
    """The same for the few arms of one query."""
    if max(usd, default=0.0) < _LARGEST_USD:
        return [round(value * NANOS_PER_USD) for value in usd]
    return [round(value * NANOS_PER_USD) if value < _LARGEST_USD else _LARGEST_NANOS for value in usd]


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
        self._windows = [arm.max_input_tokens for arm in arms]
        self._output = np.array([np.inf if arm.max_output_tokens is None else arm.max_output_tokens for arm in arms])
        self._windowed = any(window is not None for window in self._windows)
        self._input_price = np.array([arm.input_usd_per_mtok for arm in arms])
        self._output_price = np.array([arm.output_usd_per_mtok for arm in arms])
        self._request = np.array([arm.request_usd for arm in arms])
        self.none_excluded = (ELIGIBLE,) * len(arms)
        self.all = (True,) * len(arms)

    def suited(self, request: Request) -> list[int]:
        """The exclusions that have nothing to do with money; the caller may change the list."""
        if self.suits_all(request):
            return list(self.none_excluded)
        tokens = prompt_tokens(request)
        return [self._unsuited(k, request, tokens) for k in range(len(self.all))]

    def suits_all(self, request: Request) -> bool:
        """Whether the query asks for nothing that an arm could lack."""
        return not (self._windowed or request.requires or request.models is not None)

    def _unsuited(self, k: int, request: Request, tokens: int | None) -> int:
        if request.models is not None and self._models[k] not in request.models:
            return NOT_ALLOWED
        if not request.requires <= self._tags[k]:
            return MISSING_TAG
        window = self._windows[k]
        return CONTEXT_WINDOW if tokens is not None and window is not None and window < tokens else ELIGIBLE

    def eligible(self, codes: Codes) -> Mask:
        """Which arms nothing excludes, mostly all of them."""
        return [code == ELIGIBLE for code in codes] if any(codes) else self.all

    def bounds(self, request: Request) -> Nanos:
        """The most that a call can cost at list price; `NO_BOUND` where nobody says how long it gets.

        The tokens of a prompt are at most its bytes, so without a count the bytes bound them.
        The formula is that of `Arm.price_usd`, step by step: rounding cannot put a cost above its bound.
        """
        tokens = request.input_tokens if request.input_tokens is not None else request.text_bytes
        if tokens is None:
            return np.full(len(self.all), NO_BOUND, np.int64)
        allowed = np.inf if request.max_output_tokens is None else request.max_output_tokens
        output = np.minimum(self._output, allowed)
        bounded = np.isfinite(output)
        output[~bounded] = 0.0
        usd = self._request + (self._input_price * tokens + self._output_price * output) * USD_PER_MTOK
        return np.where(bounded, nanos(usd), NO_BOUND)


def screen(
    codes: list[int], reservations: Sequence[int], max_cost: int | None, available: int | None, *, bounded_only: bool
) -> Reason | None:
    """Add the exclusions by money to `codes`, in place; the reason if no arm is left.

    `available` is what the user's window still has, None without a limit: then an arm
    without a bound stays, for there is no budget that it could break.
    """
    if ELIGIBLE not in codes:
        return "no_model"
    if bounded_only and available is not None and NO_BOUND in reservations:
        exclude(codes, [amount == NO_BOUND for amount in reservations], UNBOUNDED)
        if ELIGIBLE not in codes:
            return "unbounded"
    dearest = max(reservations)
    if max_cost is not None and dearest > max_cost:
        exclude(codes, [amount > max_cost for amount in reservations], MAX_COST)
        if ELIGIBLE not in codes:
            return "max_cost"
    if available is not None and dearest > available:
        exclude(codes, [amount > available for amount in reservations], BUDGET)
        if ELIGIBLE not in codes:
            return "budget_exhausted"
    return None


def exclude(codes: list[int], where: Mask, code: int) -> None:
    """Give the code to the arms that `where` names and nothing excludes yet, in place."""
    for k, named in enumerate(where):
        if named and codes[k] == ELIGIBLE:
            codes[k] = code
