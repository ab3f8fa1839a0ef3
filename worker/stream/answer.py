"""The decision record: how a verdict and the user's window look on the decisions topic."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from worker import compact_json
from worker.core.ledger import Spend
from worker.core.verdict import Candidate, Exclusion, Verdict
from worker.events import BudgetView, CandidateView, Decision, Query, SourceView
from worker.money import NANOS_PER_USD, optional_usd, to_usd
from worker.stream.batch import Headers, SourceRecord

MAX_HEADERS = 16
MAX_HEADER_BYTES = 4 * 1024
_EXPECTED_REWARD = b'"expected_reward":'
# Models that could not have answered are no baseline.
_UNSUITED: frozenset[Exclusion | None] = frozenset({"not_allowed", "missing_tag", "context_window"})


class Window(NamedTuple):
    """A budget window in seconds since the epoch, and the limit in nano-dollars (None: no budget)."""

    start: int
    length: int
    limit: int | None


def render(
    query: Query,
    record: SourceRecord,
    verdict: Verdict,
    spend: Spend,
    window: Window,
    *,
    version: str,
    now_s: float,
    detailed: bool,
) -> bytes:
    """The decision record's value; these bytes are stored and repeated as they are.

    `spend` is the window after this decision's reservation.
    """
    decision = Decision(
        query_id=query.query_id,
        user_id=query.user_id,
        status="rejected" if verdict.model is None else "routed",
        reason=verdict.reason,
        model=verdict.model,
        expected_reward=verdict.expected_reward,
        uncertainty=verdict.uncertainty,
        propensity=verdict.propensity,
        estimated_cost_usd=optional_usd(verdict.estimated_cost_nanos),
        reservation_usd=optional_usd(verdict.reservation_nanos),
        policy=verdict.policy,
        policy_version=version,
        budget=_budget(spend, window, verdict.shadow_price),
        candidates=_candidates(verdict) if detailed else [],
        source=SourceView(partition=record.partition, offset=record.offset),
        decided_at=timestamp(now_s),
        metadata=query.metadata,
    )
    return compact_json.dumps(decision)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{micros // 1000:03d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=64)
def _bound(seconds: int) -> str:
    """A window's bound, which most decisions share."""
    return timestamp(seconds)


def echoed(headers: Headers) -> Headers:
    """The headers that a decision carries on: the first 16 of the query's record, up to 4 KiB."""
    kept: list[tuple[str, bytes | None]] = []
    size = 0
    for name, value in headers[:MAX_HEADERS]:
        size += len(name.encode()) + len(value or b"")
        if size > MAX_HEADER_BYTES:
            break
        kept.append((name, value))
    return tuple(kept)


class Comparison(NamedTuple):
    """A decision beside what else could have been decided."""

    baseline_nanos: int | None = None
    baseline_reward: float | None = None
    exploring: bool = False


def compare(verdict: Verdict) -> Comparison:
    """The model of highest expected reward, and whether another eligible one looked better at its price.

    Nothing is compared where nothing was chosen or no candidate could have answered.
    """
    best: Candidate | None = None
    price, chosen, most = (verdict.shadow_price or 0.0) / NANOS_PER_USD, 0.0, -math.inf
    for candidate in verdict.candidates:
        model, reward, _, nanos, excluded = candidate
        if excluded in _UNSUITED:
            continue
        if best is None or reward > best.expected_reward:
            best = candidate
        worth = reward - price * nanos
        if model == verdict.model:
            chosen = worth
        elif excluded is None and worth > most:
            most = worth
    if verdict.model is None or best is None:
        return Comparison()
    return Comparison(best.estimated_cost_nanos, best.expected_reward, most > chosen)


def expected_reward(decision: bytes) -> float | None:
    """The expected reward of a recorded decision, without reading all of it; None where rejected.

    The name cannot stand unescaped inside a string, and the decision's own comes before its candidates'.
    """
    start = decision.find(_EXPECTED_REWARD)
    if start < 0:
        return None
    start += len(_EXPECTED_REWARD)
    number = decision[start : decision.find(b",", start)]
    return None if number == b"null" else float(number)


def _budget(spend: Spend, window: Window, shadow_price: float | None) -> BudgetView | None:
    if window.limit is None:
        return None
    return BudgetView(
        limit_usd=to_usd(window.limit),
        settled_usd=to_usd(spend.settled),
        reserved_usd=to_usd(spend.reserved),
        remaining_usd=to_usd(window.limit - spend.settled - spend.reserved),
        window_start=_bound(window.start),
        window_end=_bound(window.start + window.length),
        shadow_price=shadow_price,
    )


def _candidates(verdict: Verdict) -> list[CandidateView]:
    return [
        {
            "model": model,
            "expected_reward": reward,
            "uncertainty": uncertainty,
            "estimated_cost_usd": nanos / NANOS_PER_USD,
            "excluded": excluded,
        }
        for model, reward, uncertainty, nanos, excluded in verdict.candidates
    ]
