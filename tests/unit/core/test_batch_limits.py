"""A batch equals one by one where its queries depend on each other most: shared windows, limits that end inside it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.batch import Batch
from worker.core.learn import Lesson, learn
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.router import Router, RouterOptions
from worker.core.statistics import ArmStatistics
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos

D = 4
SIZE = 32
ENDS_INSIDE_USD = 0.012
ARMS = (
    Arm("cheap", 0.1, 0.1, max_output_tokens=500),
    Arm("off", 0.1, 0.1, enabled=False),
    Arm("middle", 1.0, 1.0, max_output_tokens=500),
    Arm("open", 2.0, 2.0),
    Arm("dear", 10.0, 10.0, max_output_tokens=500, tags=frozenset({"eu"})),
)
SETTINGS: dict[str, RouterOptions] = {
    "pacing": RouterOptions(),
    "zcl": RouterOptions(policy="zcl"),
    "floor": RouterOptions(policy="floor", quality_floor=0.8),
    "unlimited": RouterOptions(policy="unlimited"),
    "exploring": RouterOptions(exploration_rate=0.3),
    "bounds": RouterOptions(reserve="worst_case", fallback="cheapest"),
    "overdrawing": RouterOptions(fallback="cheapest"),
    "table": RouterOptions(costs="table"),
    "cold": RouterOptions(open_decisions=True),
}


def contexts(count: int, seed: int) -> FloatArray:
    values = np.random.default_rng(seed).standard_normal((count, D))
    values[:, -1] = 1.0
    return values


def router(name: str) -> Router:
    projection = Projection("test", np.zeros(3), np.eye(3))
    known = {}
    for number, arm in enumerate(ARMS):
        known[arm.model] = ArmStatistics.zeros(D)
        for x in contexts(60, number):
            learn(known[arm.model], Lesson(x, reward=0.3 + 0.15 * number + 0.1 * float(x[0] > 0), output_tokens=100))
    models = tuple(known)
    prior = Prior("table", projection, contexts(50, 9), models, known, mean_costs=dict.fromkeys(models, 1e-4))
    made = Router(replace(prior, kind="texts", statistics={}) if name == "cold" else prior, SETTINGS[name])
    made.set_arms(ARMS)
    return made


def requests(users: int, *, plain: bool) -> list[Request]:
    """`plain` queries ask for nothing special, of the others many have a limit, a list or a tag of their own."""
    made = []
    for number, x in enumerate(contexts(3 * SIZE, 1)):
        asked = Request(f"q{number}", x, input_tokens=20 + number, user_id=f"user {number % users}", at_s=float(number))
        if not plain:
            asked = asked._replace(
                models=frozenset({"cheap", "dear", "off"}) if number % 4 == 0 else None,
                requires=frozenset({"eu"}) if number % 9 == 0 else frozenset(),
                max_cost_nanos=to_nanos(2e-4) if number % 3 == 0 else None,
                input_tokens=None if number % 5 == 0 else number,
                text_bytes=400 if number % 10 == 0 else None,
            )
        made.append(asked)
    return made


class Windows:
    """Every user's window; what is decided for one query the next query of the user finds held."""

    def __init__(self, limit_usd: float | None) -> None:
        self._limit = None if limit_usd is None else to_nanos(limit_usd)
        self._held: dict[str, Account] = {}

    def account(self, request: Request) -> Account:
        own = self._held.get(request.user_id, Account(self._limit))
        return own._replace(elapsed=request.at_s / (3 * SIZE))

    def hold(self, request: Request, verdict: Verdict) -> None:
        own = self.account(request)
        self._held[request.user_id] = own._replace(
            reserved=own.reserved + (verdict.reservation_nanos or 0),
            expected=own.expected + (verdict.estimated_cost_nanos or 0),
            queries=own.queries + 1,
        )


def alone(made: Router, asked: list[Request], windows: Windows) -> Iterator[Verdict]:
    for request in asked:
        verdict = made.decide(request, windows.account(request))
        windows.hold(request, verdict)
        yield verdict


def together(made: Router, asked: list[Request], windows: Windows) -> Iterator[Verdict]:
    for start in range(0, len(asked), SIZE):
        batch = Batch(made, asked[start : start + SIZE])
        for index, request in enumerate(asked[start : start + SIZE]):
            verdict = batch.decide(index, windows.account(request))
            windows.hold(request, verdict)
            yield verdict


def told(verdict: Verdict) -> tuple[object, ...]:
    excluded = [(candidate.model, candidate.excluded) for candidate in verdict.candidates]
    return verdict.reason, verdict.model, verdict.propensity, excluded


def amounts(verdict: Verdict) -> list[float]:
    exact = (verdict.expected_reward, verdict.uncertainty, verdict.shadow_price)
    nanos = (verdict.reservation_nanos, verdict.estimated_cost_nanos, verdict.predicted_cost_nanos)
    return [*(value or 0.0 for value in exact), *((value or 0) / 1e9 for value in nanos)]


@pytest.mark.parametrize(
    "limit_usd", [2e-3, ENDS_INSIDE_USD, 1.0, None], ids=["poor", "ends inside", "rich", "no budget"]
)
@pytest.mark.parametrize("users", [1, 7, 96], ids=["one user", "some users", "a user a query"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with wishes"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_decides_as_one_by_one(name: str, users: int, limit_usd: float | None, *, plain: bool) -> None:
    """Model, reason, exclusions, propensity and amounts are those of deciding one after another."""
    asked = requests(users, plain=plain)
    mine = list(together(router(name), asked, Windows(limit_usd)))
    theirs = list(alone(router(name), asked, Windows(limit_usd)))
    assert [told(verdict) for verdict in mine] == [told(verdict) for verdict in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert amounts(one) == pytest.approx(amounts(other), rel=1e-9, abs=2e-9)


def test_limits_do_end_inside_a_batch() -> None:
    """In the case above that is to end inside, an arm and then all become too dear between two queries of a batch."""
    verdicts = list(together(router("pacing"), requests(1, plain=True), Windows(ENDS_INSIDE_USD)))
    dear = next(number for number, verdict in enumerate(verdicts) if any(c.excluded for c in verdict.candidates))
    spent = next(number for number, verdict in enumerate(verdicts) if verdict.reason == "budget_exhausted")
    assert dear % SIZE
    assert spent % SIZE
