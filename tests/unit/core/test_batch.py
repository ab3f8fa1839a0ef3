"""A batch decides as the router decides one by one, whatever happens between two of its queries."""

from collections.abc import Iterator

import numpy as np
import pytest

from worker.core.arms import Arm
from worker.core.batch import Batch
from worker.core.learn import Lesson, learn
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.router import PLAN_EVERY, Router, RouterOptions
from worker.core.statistics import ArmStatistics
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.money import to_nanos

D = 4
ARMS = (
    Arm("cheap", 0.1, 0.1, max_output_tokens=500),
    Arm("middle", 1.0, 1.0, max_output_tokens=500, max_input_tokens=400),
    Arm("dear", 10.0, 10.0, max_output_tokens=500, tags=frozenset({"eu"})),
)


def contexts(count: int, seed: int = 0) -> FloatArray:
    values = np.random.default_rng(seed).standard_normal((count, D))
    values[:, -1] = 1.0
    return values


def scored() -> dict[str, ArmStatistics]:
    sums = {}
    for number, arm in enumerate(ARMS):
        statistics = ArmStatistics.zeros(D)
        for x in contexts(80, seed=number):
            learn(statistics, Lesson(x, reward=0.4 + 0.2 * number + 0.1 * float(x[0] > 0), output_tokens=100))
        sums[arm.model] = statistics
    return sums


def router(*, known: bool = True, **options: object) -> Router:
    projection = Projection("test", np.zeros(3), np.eye(3))
    prior = (
        Prior("table", projection, contexts(50), tuple(arm.model for arm in ARMS), scored())
        if known
        else Prior("texts", projection, contexts(50))
    )
    made = Router(prior, RouterOptions(**options))  # type: ignore[arg-type]
    made.set_arms(ARMS)
    return made


def requests(count: int, seed: int = 1) -> list[Request]:
    """Of many shapes: with and without a count, a limit of their own, an allow-list, a tag."""
    made = []
    for number, x in enumerate(contexts(count, seed)):
        made.append(
            Request(
                f"q{number}",
                x,
                input_tokens=None if number % 3 == 0 else 50 * (number % 11),
                text_bytes=None if number % 2 else 300,
                models=frozenset({"cheap", "dear"}) if number % 7 == 0 else None,
                requires=frozenset({"eu"}) if number % 13 == 0 else frozenset(),
                max_cost_nanos=to_nanos(1e-3) if number % 5 == 0 else None,
                user_id=f"user {number % 3}",
                at_s=float(number),
            )
        )
    return made


class Purses:
    """Three users' windows, which every verdict changes: what follows sees what came before."""

    def __init__(self, limit_usd: float | None) -> None:
        self._limit = None if limit_usd is None else to_nanos(limit_usd)
        self._spent: dict[str, tuple[int, int, int]] = {}

    def account(self, request: Request) -> Account:
        reserved, expected, queries = self._spent.get(request.user_id, (0, 0, 0))
        return Account(self._limit, 0, reserved, expected, queries, min(queries / 300, 1.0))

    def charge(self, request: Request, verdict: Verdict) -> None:
        reserved, expected, queries = self._spent.get(request.user_id, (0, 0, 0))
        self._spent[request.user_id] = (
            reserved + (verdict.reservation_nanos or 0),
            expected + (verdict.estimated_cost_nanos or 0),
            queries + 1,
        )


def singly(made: Router, asked: list[Request], purses: Purses) -> Iterator[Verdict]:
    for request in asked:
        verdict = made.decide(request, purses.account(request))
        purses.charge(request, verdict)
        yield verdict


def in_batches(made: Router, asked: list[Request], purses: Purses, size: int) -> Iterator[Verdict]:
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        batch = Batch(made, part)
        for index, request in enumerate(part):
            verdict = batch.decide(index, purses.account(request))
            purses.charge(request, verdict)
            yield verdict


def assert_same(one: Verdict, other: Verdict) -> None:
    """The same choice for the same reasons; numbers up to rounding, whole nano-dollars up to one."""
    assert (one.model, one.reason, one.policy, one.propensity) == (
        other.model, other.reason, other.policy, other.propensity,
    )  # fmt: skip
    assert (one.shadow_price is None) == (other.shadow_price is None)
    assert (one.shadow_price or 0.0) == pytest.approx(other.shadow_price or 0.0, rel=1e-9)
    for mine, theirs in zip(one.candidates, other.candidates, strict=True):
        assert (mine.model, mine.excluded) == (theirs.model, theirs.excluded)
        assert mine.expected_reward == pytest.approx(theirs.expected_reward, abs=1e-9)
        assert mine.uncertainty == pytest.approx(theirs.uncertainty, abs=1e-9)
        assert abs(mine.estimated_cost_nanos - theirs.estimated_cost_nanos) <= 1
    if one.model is not None:
        assert one.expected_reward == pytest.approx(other.expected_reward, abs=1e-9)
        assert abs((one.reservation_nanos or 0) - (other.reservation_nanos or 0)) <= 1


SETTINGS: dict[str, dict[str, object]] = {
    "default": {},
    "bounds": {"reserve": "worst_case"},
    "expected": {"reserve": "expected", "fallback": "cheapest"},
    "zcl": {"policy": "zcl"},
    "floor": {"policy": "floor", "quality_floor": 0.8},
    "unlimited": {"policy": "unlimited", "exploration_rate": 0.2},
    "disjoint": {"rewards": "disjoint"},
    "cold": {"known": False},
    "no open decisions": {"known": False, "open_decisions": False},
}


@pytest.mark.parametrize("limit_usd", [0.02, 1.0, None], ids=["poor", "rich", "unlimited"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_decides_as_one_by_one(settings: str, limit_usd: float | None) -> None:
    """Every verdict is the one that the query gets alone, budgets, plans and forced pulls included."""
    asked = requests(PLAN_EVERY + 60)
    one, other = (router(**SETTINGS[settings]) for _ in range(2))  # type: ignore[arg-type]
    alone = singly(one, asked, Purses(limit_usd))
    together = in_batches(other, asked, Purses(limit_usd), 32)
    for mine, theirs in zip(together, alone, strict=True):
        assert_same(mine, theirs)


def test_sees_what_is_learned_between_two_queries() -> None:
    """A refresh, an outcome and a new price list act on the queries of a batch that are left."""
    asked = requests(30)
    one, other = router(), router()
    batch, rich = Batch(other, asked), Account(to_nanos(1_000.0), elapsed=0.5)
    for index, request in enumerate(asked):
        assert_same(batch.decide(index, rich), one.decide(request, rich))
        for made in (one, other):
            if index == 5:
                made.refresh(scored())
            if index == 10:
                made.observe("dear", request.context, 0.0)
            if index == 20:
                made.set_arms(ARMS[:2])


def test_may_skip_queries_and_go_back() -> None:
    """Queries that are repeats need no decision, and any order will do."""
    asked, rich = requests(8), Account(to_nanos(1_000.0), elapsed=0.5)
    one, other = router(), router()
    batch = Batch(other, asked)
    for index in (3, 6, 1, 7):
        assert_same(batch.decide(index, rich), one.decide(asked[index], rich))


@pytest.mark.parametrize("known", [True, False], ids=["warm", "cold"])
def test_weighs_once_what_nothing_changes(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch between two plans costs one product, not one a query; open decisions change the deviations alone."""
    made, asked, rich = router(known=known), requests(20), Account(to_nanos(1_000.0), elapsed=0.5)
    made.decide(asked[0], rich)
    weighed: list[int] = []
    plain = Router.weigh_many
    monkeypatch.setattr(Router, "weigh_many", lambda self, left: weighed.append(len(left)) or plain(self, left))
    batch = Batch(made, asked)
    for index in range(20):
        batch.decide(index, rich)
    assert weighed == [20]


def test_without_any_model_all_are_rejected() -> None:
    """An empty catalogue is the reason of each, not an error."""
    made, asked = router(), requests(3)
    made.set_arms(())
    batch = Batch(made, asked)
    assert [batch.decide(index, None).reason for index in range(3)] == ["no_model"] * 3


@pytest.mark.parametrize(
    ("known", "first"),
    [(True, [0, PLAN_EVERY, 2 * PLAN_EVERY, 3 * PLAN_EVERY]), (False, [0, 25, 50, 75])],
    ids=["warm", "cold"],
)
def test_plans_often_while_little_is_known(known: bool, first: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Early plans are renewed after a sixteenth of what was decided so far, those of a warm router rarely."""
    made, rich, planned = router(known=known), Account(to_nanos(1_000.0), elapsed=0.5), list[int]()
    plain = made._policy.plan
    monkeypatch.setattr(made._policy, "plan", lambda sample: planned.append(number) or plain(sample))
    for number, request in enumerate(requests(1_000)):  # noqa: B007 - the plan notes it
        made.decide(request, rich)
    gaps = np.diff(planned)
    assert planned[:4] == first
    assert (np.diff(gaps) >= 0).all()
    assert 50 < gaps[-1] <= PLAN_EVERY
