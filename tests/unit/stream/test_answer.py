"""The decision record: every field, the budget's arithmetic, what is echoed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.core.ledger import Spend
from worker.core.verdict import Candidate, Verdict
from worker.events import Query
from worker.stream.answer import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Comparison,
    Window,
    compare,
    echoed,
    expected_reward,
    render,
    timestamp,
)
from worker.stream.batch import SourceRecord

QUERY = Query(query_id="q", user_id="u", text="hi", metadata={"team": "größe"})
RECORD = SourceRecord("t.queries", 3, 42, 1_700_000_123_456, b"u", b"{}")
CANDIDATES = (
    Candidate("large", 0.9, 0.1, 3_000_000, "budget"),
    Candidate("small", 0.6, 0.2, 1_000, None),
)
ROUTED = Verdict(None, CANDIDATES, "pacing", "small", 0.6, 0.2, 1.0, 1_000, 900, 2_500, 0.75)
REJECTED = Verdict("budget_exhausted", CANDIDATES, "pacing", shadow_price=0.75)
SPEND = Spend(settled=400_000_000, reserved=700_000_000, queries=9)
WINDOW = Window(1_699_920_000, 86_400, 1_000_000_000)
FIELDS = [
    "query_id", "user_id", "status", "reason", "model", "expected_reward", "uncertainty", "propensity",
    "estimated_cost_usd", "reservation_usd", "policy", "policy_version", "budget", "candidates", "source",
    "decided_at", "metadata",
]  # fmt: skip


def recorded(
    verdict: Verdict = ROUTED, window: Window = WINDOW, query: Query = QUERY, *, detailed: bool = True
) -> bytes:
    return render(query, RECORD, verdict, SPEND, window, version="fp:17", now_s=1_700_000_124.0005, detailed=detailed)


def rendered(verdict: Verdict = ROUTED, window: Window = WINDOW, query: Query = QUERY, *, detailed: bool = True) -> Any:
    return json.loads(recorded(verdict, window, query, detailed=detailed))


def test_routed_decision() -> None:
    """Everything that the contract names, with money in USD."""
    assert rendered() == {
        "query_id": "q",
        "user_id": "u",
        "status": "routed",
        "reason": None,
        "model": "small",
        "expected_reward": 0.6,
        "uncertainty": 0.2,
        "propensity": 1.0,
        "estimated_cost_usd": 1e-6,
        "reservation_usd": 2.5e-6,
        "policy": "pacing",
        "policy_version": "fp:17",
        "budget": {
            "limit_usd": 1.0,
            "settled_usd": 0.4,
            "reserved_usd": 0.7,
            "remaining_usd": -0.1,
            "window_start": "2023-11-14T00:00:00.000Z",
            "window_end": "2023-11-15T00:00:00.000Z",
            "shadow_price": 0.75,
        },
        "candidates": [
            {
                "model": "large",
                "expected_reward": 0.9,
                "uncertainty": 0.1,
                "estimated_cost_usd": 0.003,
                "excluded": "budget",
            },
            {
                "model": "small",
                "expected_reward": 0.6,
                "uncertainty": 0.2,
                "estimated_cost_usd": 1e-6,
                "excluded": None,
            },
        ],
        "source": {"partition": 3, "offset": 42},
        "decided_at": "2023-11-14T22:15:24.000Z",
        "metadata": {"team": "größe"},
    }


@pytest.mark.parametrize("verdict", [ROUTED, REJECTED])
@pytest.mark.parametrize("window", [WINDOW, WINDOW._replace(limit=None)])
def test_every_field_is_always_present(verdict: Verdict, window: Window) -> None:
    """Null where a field does not apply, never missing, in the order of the table."""
    assert list(rendered(verdict, window, Query(query_id="q", user_id="u", text=""))) == FIELDS


def test_rejection() -> None:
    """No model and no numbers about one, but reason, budget and candidates."""
    found = rendered(REJECTED)
    nothing = ("model", "expected_reward", "uncertainty", "propensity", "estimated_cost_usd", "reservation_usd")
    assert (found["status"], found["reason"]) == ("rejected", "budget_exhausted")
    assert [found[name] for name in nothing] == [None] * 6
    assert found["budget"]["shadow_price"] == 0.75
    assert len(found["candidates"]) == 2


def test_user_without_limit_has_no_budget() -> None:
    """No limit: budget is null."""
    assert rendered(window=WINDOW._replace(limit=None))["budget"] is None


def test_limit_of_zero_is_a_budget() -> None:
    """A limit of 0 is a limit."""
    assert rendered(window=WINDOW._replace(limit=0))["budget"]["remaining_usd"] == -1.1


def test_remaining_is_exact() -> None:
    """Money is summed in nano-dollars: no remainder of float arithmetic shows."""
    exact = render(
        QUERY, RECORD, ROUTED, Spend(100_000_000, 200_000_000), WINDOW._replace(limit=300_000_001),
        version="", now_s=0.0, detailed=True,
    )  # fmt: skip
    assert json.loads(exact)["budget"]["remaining_usd"] == 1e-9


def test_candidates_may_be_left_out() -> None:
    """The setting leaves the list empty and everything else as it is."""
    assert rendered(detailed=False) == {**rendered(), "candidates": []}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_123.456, "2023-11-14T22:15:23.456Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
    ],
)
def test_times_are_rfc_3339_with_milliseconds(seconds: float, text: str) -> None:
    """UTC with a Z and three digits, also where they are zero."""
    assert timestamp(seconds) == text


class TestEcho:
    """Headers that a decision carries on."""

    def test_first_headers_in_order(self) -> None:
        """The first sixteen, repeated names and null values as they are."""
        headers = tuple(("h", None if number % 2 else b"%d" % number) for number in range(20))
        assert echoed(headers) == headers[:MAX_HEADERS]

    def test_up_to_a_size(self) -> None:
        """Names and values up to 4 KiB; the first header that does not fit ends it."""
        fits = (("name", b"x" * (MAX_HEADER_BYTES - 8)), ("ab", b"cd"))
        assert echoed(fits) == fits
        assert echoed((*fits, ("", b"x"))) == fits
        assert echoed((("a", b"x" * MAX_HEADER_BYTES), ("b", b""))) == ()


class TestComparison:
    """A decision beside what else could have been decided."""

    def test_best_model_that_could_have_answered(self) -> None:
        """A model that only the budget excludes is the baseline; one that could not answer is not."""
        unsuited = Candidate("huge", 0.99, 0.1, 9, "context_window")
        beside = compare(Verdict(None, (*CANDIDATES, unsuited), "pacing", "small"))
        best = max(CANDIDATES, key=lambda candidate: candidate.expected_reward)
        assert (beside.baseline_nanos, beside.baseline_reward) == (3_000_000, best.expected_reward)

    @pytest.mark.parametrize("verdict", [Verdict("no_model", (), "pacing"), Verdict("max_cost", CANDIDATES, "pacing")])
    def test_no_decision_no_comparison(self, verdict: Verdict) -> None:
        """Nothing was chosen, or there was nothing to choose from."""
        assert compare(verdict) == Comparison()

    @pytest.mark.parametrize(
        ("chosen", "price", "exploring"),
        [("dear", 0.0, False), ("cheap", 0.0, True), ("cheap", 100.0, False), ("dear", 100.0, True)],
    )
    def test_exploring_is_choosing_what_looks_worse_at_its_price(
        self, chosen: str, price: float, *, exploring: bool
    ) -> None:
        """With free money the dear model looks better, at 100 reward a dollar the cheap one."""
        candidates = (Candidate("dear", 0.9, 0.1, 10_000_000, None), Candidate("cheap", 0.5, 0.1, 1_000_000, None))
        assert compare(Verdict(None, candidates, "pacing", chosen, shadow_price=price)).exploring is exploring

    def test_what_was_not_eligible_is_no_alternative(self) -> None:
        """To leave out what the budget does not allow is no exploration."""
        candidates = (Candidate("dear", 0.9, 0.1, 10_000_000, "budget"), Candidate("cheap", 0.5, 0.1, 1, None))
        assert not compare(Verdict(None, candidates, "pacing", "cheap")).exploring


class TestRecordedReward:
    """What a recorded decision expected, found without reading all of it."""

    def test_it_is_the_decision_s_own(self) -> None:
        """Not a candidate's, and not what an id or the metadata look like."""
        misleading = Query(query_id='"expected_reward":7,', user_id="u", text="", metadata={"expected_reward": "8"})
        assert expected_reward(recorded(query=misleading)) == 0.6

    def test_a_rejection_expects_nothing(self) -> None:
        """Null stays unknown."""
        assert expected_reward(recorded(REJECTED)) is None
