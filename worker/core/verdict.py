"""What the core is asked and what it answers: request and account in, verdict out.

Named tuples where one is made for every decision: a frozen data class takes three times as long.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

Exclusion = Literal["not_allowed", "missing_tag", "context_window", "unbounded", "max_cost", "budget", "threshold"]
Reason = Literal["no_model", "unbounded", "max_cost", "budget_exhausted"]


class Request(NamedTuple):
    """One query as the core sees it.

    `context` is ψ, float64 of shape (d,). `text_bytes` are the UTF-8 bytes of the
    prompt, None where there is only an embedding, `at_s` its broker time in seconds.
    """

    query_id: str
    context: FloatArray
    input_tokens: int | None = None
    text_bytes: int | None = None
    max_output_tokens: int | None = None
    models: frozenset[str] | None = None
    requires: frozenset[str] = frozenset()
    max_cost_nanos: int | None = None
    user_id: str = ""
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """A user's decayed query count and window count, carried from window to window."""

    queries: float = 0.0
    exposure: float = 0.0


class Account(NamedTuple):
    """A user's window before this decision; money in nano-dollars.

    `expected` is Σ Ĉ of the decisions that are still open, `queries` counts the
    window's decisions without this one, `elapsed` is the share of the window that
    has passed, 0 to 1. `left` is the number of queries still to come in the window,
    this one included, where somebody knows it. `limit` None: no budget.
    """

    limit: int | None
    settled: int = 0
    reserved: int = 0
    expected: int = 0
    queries: int = 0
    elapsed: float = 0.0
    history: History = History()
    left: float | None = None


class Candidate(NamedTuple):
    """One enabled model at this decision; excluded: None or the first reason that kept it out."""

    model: str
    expected_reward: float
    uncertainty: float
    estimated_cost_nanos: int
    excluded: Exclusion | None


class Verdict(NamedTuple):
    """The decision of the core: a model, or the reason why there is none.

    Everything from `model` on is None when rejected, except the candidates.
    """

    reason: Reason | None
    candidates: Collection[Candidate]
    policy: str
    model: str | None = None
    expected_reward: float | None = None
    uncertainty: float | None = None
    propensity: float | None = None
    estimated_cost_nanos: int | None = None
    predicted_cost_nanos: int | None = None  # Ĉ before the frozen bias correction: what the bias is learned against
    reservation_nanos: int | None = None
    shadow_price: float | None = None
