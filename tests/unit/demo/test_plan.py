from __future__ import annotations

from collections import Counter

import pytest

from worker.demo import plan
from worker.demo.data import Dataset
from worker.errors import UsageError


def test_same_arguments_give_the_same_plan(tiny: Dataset) -> None:
    """A run can be repeated exactly."""
    assert plan.draw(tiny, 500, 5) == plan.draw(tiny, 500, 5)


def test_every_row_is_asked_once_before_any_is_asked_twice(tiny: Dataset) -> None:
    """Ten queries over four rows ask each of them twice or three times."""
    counts = Counter(query.row for query in plan.draw(tiny, 10, 2).queries)
    assert sorted(counts) == [0, 1, 2, 3]
    assert set(counts.values()) <= {2, 3}


def test_users_ask_at_zipf_rates(tiny: Dataset) -> None:
    """The busiest user asks about twice as often as the second and ten times as often as the tenth."""
    counts = Counter(query.user_id for query in plan.draw(tiny, 20_000, 10).queries)
    assert counts["user-01"] / counts["user-02"] == pytest.approx(2, rel=0.1)
    assert counts["user-01"] / counts["user-10"] == pytest.approx(10, rel=0.2)


def test_queries_come_in_order_within_the_planned_time(tiny: Dataset) -> None:
    """Times never fall, and the budget window outlasts the last query."""
    drawn = plan.draw(tiny, 400, 3)
    times = [query.at_s for query in drawn.queries]
    assert times == sorted(times)
    assert times[-1] < drawn.duration_s < drawn.window_s


def test_limit_is_a_share_of_what_the_best_model_would_cost(tiny: Dataset) -> None:
    """A lone user with a 3 % budget and 100 queries gets 3 % of 100 calls at 5 USD."""
    assert plan.draw(tiny, 100, 1).limits_usd == {"user-01": pytest.approx(0.03 * 100 * 5.0)}


def test_budgets_can_be_multiplied(tiny: Dataset) -> None:
    """Ten times the budgets change nothing but the limits."""
    usual, rich = plan.draw(tiny, 100, 3), plan.draw(tiny, 100, 3, budgets=10.0)
    assert rich.queries == usual.queries
    assert list(rich.limits_usd.values()) == pytest.approx(
        [10 * limit for limit in usual.limits_usd.values()], rel=1e-5
    )


def test_some_users_are_poor(tiny: Dataset) -> None:
    """Budgets per expected query differ thirtyfold."""
    limits = plan.draw(tiny, 1000, 10).limits_usd
    per_query = [limit * rank for rank, limit in enumerate(limits.values(), start=1)]
    assert max(per_query) / min(per_query) == pytest.approx(30, rel=0.01)


def test_a_stretch_of_the_stream_comes_as_embeddings(tiny: Dataset) -> None:
    """A fifth of the queries in a row carry an embedding, the others their text."""
    embedded = [query.embedded for query in plan.draw(tiny, 1000, 3).queries]
    assert sum(embedded) == 200
    assert all(embedded[550:750])


def test_best_and_middle_model_are_those_of_the_prior_rows(tiny: Dataset) -> None:
    """The best model is the one with the highest mean reward."""
    assert plan.best_model(tiny) == 1
    assert plan.middle_model(tiny) == 1


def test_slow_machine_gets_the_same_queries_at_a_slower_pace(tiny: Dataset) -> None:
    """Where 20 texts a second are encoded, 1,000 queries come at 9 a second, in the same order."""
    drawn = plan.draw(tiny, 1000, 3)
    slow = drawn.paced_for(texts_per_s=20.0)
    assert (drawn.duration_s, slow.duration_s) == (50.0, pytest.approx(1000 / 9))
    assert [query.query_id for query in slow.queries] == [query.query_id for query in drawn.queries]
    assert slow.queries[-1].at_s == pytest.approx(drawn.queries[-1].at_s * 20 / 9)


@pytest.mark.parametrize(("texts_per_s", "duration_s"), [(1000.0, 90.0), (1.0, 180.0)])
def test_pace_is_never_above_the_planned_one_nor_endless(tiny: Dataset, texts_per_s: float, duration_s: float) -> None:
    """A fast machine keeps the planned pace, a very slow one three minutes."""
    assert plan.draw(tiny, 1800, 3).paced_for(texts_per_s).duration_s == duration_s


@pytest.mark.parametrize(("queries", "users"), [(0, 5), (5, 0)])
def test_nothing_to_do_is_refused(tiny: Dataset, queries: int, users: int) -> None:
    """No query or no user is an error that names the option."""
    with pytest.raises(UsageError, match="--queries"):
        plan.draw(tiny, queries, users)
