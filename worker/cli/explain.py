"""`pilot explain`: why a query was decided as it was, from what its decision records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import Row, show, timestamp
from worker.cli.root import effective_settings

if TYPE_CHECKING:
    from worker.kafka.history import QueryHistory, Written

_CANDIDATES = {
    "model": "model",
    "expected_reward": "reward",
    "uncertainty": "± one sd",
    "estimated_cost_usd": "cost USD",
    "worth": "worth",
    "why": "why",
}
_SAME = 0.0005  # rewards are shown with three decimals
_FEEDBACK = {
    "at": "at",
    "status": "status",
    "model": "model",
    "reward": "reward",
    "cost_usd": "cost USD",
    "input_tokens": "tokens\nin",
    "output_tokens": "tokens\nout",
}
_EXCLUDED = {
    "not_allowed": "not in the query's list of models",
    "missing_tag": "lacks a tag that the query requires",
    "context_window": "its context window is too small for the prompt",
    "unbounded": "its cost has no bound to reserve",
    "max_cost": "would reserve more than the query's max_cost_usd",
    "budget": "would reserve more than the budget had left",
    "threshold": "not worth its share of the budget at this point of the window",
}


@click.command()
@click.argument("query_id")
@click.option("--user", help="Whose query, where several users have one of this id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: decision, candidates, feedback.")
def explain(query_id: str, user: str | None, *, as_json: bool) -> None:
    """Show how QUERY_ID was decided, why the other models lost, and the feedback that came.

    `worth` is the expected reward less the cost at the shadow price; the exploration bonus is not recorded.
    """
    settings = effective_settings()
    from worker.kafka.history import find

    found = asyncio.run(find(settings, query_id, user))
    if as_json:
        import orjson

        print(orjson.dumps(_object(found)).decode())
    else:
        _print(found)


def candidates(decision: Row) -> list[Row]:
    """Every candidate of a decision with its worth, and why it was chosen or lost."""
    price = _price(decision)
    rows = [{**candidate, "worth": _worth(candidate, price)} for candidate in decision["candidates"]]
    chosen = next((row for row in rows if row["model"] == decision["model"]), None)
    return [{**row, "why": _why(row, chosen, decision)} for row in rows]


def _price(decision: Row) -> float | None:
    """Reward per USD; nothing where there is no budget, None where the policy has no price."""
    if decision["budget"] is None:
        return 0.0
    price: float | None = decision["budget"]["shadow_price"]
    return price


def _worth(candidate: Row, price: float | None) -> float | None:
    return None if price is None else candidate["expected_reward"] - price * candidate["estimated_cost_usd"]


def _why(row: Row, chosen: Row | None, decision: Row) -> str:
    if row["excluded"] is not None:
        return _EXCLUDED[row["excluded"]]
    if chosen is None or row is chosen:
        return "chosen" if row is chosen else "fits, yet the query was rejected"
    if decision["propensity"] < 1 / 2:
        return f"{chosen['model']} was drawn at random (exploration rate)"
    if row["worth"] is None:
        return f"policy {decision['policy']} preferred {chosen['model']}"
    return _compared(row["worth"] - chosen["worth"], chosen["model"])


def _compared(ahead: float, chosen: str) -> str:
    if abs(ahead) < _SAME:
        return f"worth as much as {chosen}, whose exploration bonus is not smaller"
    if ahead > 0:
        return f"worth {ahead:.3g} more, which the exploration bonus of {chosen} outweighed"
    return f"worth {-ahead:.3g} less than {chosen}"


def _object(found: QueryHistory) -> dict[str, Any]:
    return {
        "decision": found.decision,
        "times_sent": found.times_sent,
        "candidates": candidates(found.decision),
        "feedback": [_feedback(written) for written in found.feedback],
    }


def _feedback(written: Written) -> Row:
    return {"at": timestamp(written.at_ms), **written.event}


def _print(found: QueryHistory) -> None:
    decision = found.decision
    outcome = f"routed to {decision['model']}" if decision["status"] == "routed" else f"rejected: {decision['reason']}"
    print(f"{decision['query_id']} of {decision['user_id']}: {outcome}, {decision['decided_at']}")
    print(f"policy {decision['policy']}, version {decision['policy_version']}, sent {_times(found.times_sent)}")
    if decision["propensity"] is not None:
        print(
            f"propensity {decision['propensity']:.4g}, estimated {decision['estimated_cost_usd']:.6g} USD, "
            f"reserved {decision['reservation_usd']:.6g} USD"
        )
    print(_budget(decision["budget"]))
    print()
    rows = [_rounded(row) for row in candidates(decision)]
    show(rows, _CANDIDATES, as_json=False, empty="candidates are not recorded (PILOT_DECISION_DETAIL=chosen)")
    print()
    parts = [{**dict.fromkeys(_FEEDBACK), "status": "ok", **_feedback(written)} for written in found.feedback]
    show(parts, _FEEDBACK, as_json=False, empty="no feedback")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _rounded(row: Row) -> Row:
    scores = ("expected_reward", "uncertainty", "worth")
    return {**row, **{name: round(row[name], 3) for name in scores if row[name] is not None}}


def _budget(budget: Row | None) -> str:
    if budget is None:
        return "no budget: unlimited"
    price = "none" if budget["shadow_price"] is None else f"{budget['shadow_price']:.6g} reward per USD"
    return (
        f"budget {budget['limit_usd']:.6g} USD from {budget['window_start']} to {budget['window_end']}: settled "
        f"{budget['settled_usd']:.6g}, reserved {budget['reserved_usd']:.6g}, remaining {budget['remaining_usd']:.6g}; "
        f"shadow price {price}"
    )
