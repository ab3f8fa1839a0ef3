from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pytest

from worker.demo import plan, report, results, summary, verify
from worker.demo.data import Dataset
from worker.demo.plan import Plan, PlannedQuery
from worker.demo.tally import Answer, Tally


def _query(number: int, user: str, *, embedded: bool = False) -> PlannedQuery:
    return PlannedQuery(
        at_s=float(number),
        query_id=f"q{number}",
        user_id=user,
        row=number,
        embedded=embedded,
        pinned=False,
        repeated=False,
        in_parts=False,
        feedback_repeated=False,
        delay_s=0.0,
    )


@pytest.fixture
def planned() -> Plan:
    """Four queries of two users, the last one as an embedding."""
    queries = (_query(0, "a"), _query(1, "b"), _query(2, "a"), _query(3, "b", embedded=True))
    return Plan(queries, {"a": 10.0, "b": 5.0}, duration_s=4.0)


@pytest.fixture
def tally(tiny: Dataset, planned: Plan) -> Tally:
    """Large, small, rejected, large: 11 USD for a reward of 3, where the best model earns 3.5 for 20 USD."""
    tally, models = Tally(tiny, policy="pacing"), ("large", "small", None, "large")
    for query, model, latency in zip(planned.queries, models, (10, 20, 30, 4), strict=True):
        column = None if model is None else tiny.names.index(model)
        reward = 0.0 if column is None else float(tiny.stream.rewards[query.row, column])
        cost = 0.0 if column is None else float(tiny.stream.costs[query.row, column])
        tally.asked_ms[query.query_id] = 1000 * query.at_s
        answer = Answer(query, model, None, 1000 * query.at_s + latency, reward, cost, b"{}")
        tally.answered(answer, plan.best_model(tiny))
    return tally


def _learned(observations: int, settled: int) -> list[dict[str, Any]]:
    return [
        {
            "model": "large",
            "observations": observations,
            "costs_settled": settled,
            "reward_sum": 2.0,
            "mean_output_tokens": 7.0,
        }
    ]


def test_sentence_says_savings_quality_and_error(tally: Tally, planned: Plan) -> None:
    """11 of 20 USD are 45 % saved, a reward of 3 of 3.5 is 85.7 % of the quality."""
    sentence = results.evaluate(tally, planned, "pacing").sentence
    pattern = r"saved 45\.0 % against always the best model, at 85\.7 ± \d+\.\d % of its quality"
    assert re.fullmatch(pattern, sentence)


def test_every_way_of_choosing_is_compared_on_the_same_queries(tally: Tally, planned: Plan) -> None:
    """The table starts with the router, and the best model is the measure of all others."""
    compared = {each.name: each for each in results.evaluate(tally, planned, "pacing").comparisons}
    assert list(compared) == [
        "router, pacing",
        "always the best",
        "always the cheapest",
        "random",
        "gateway fallback",
        "static mix per user",
        "static mix",
    ]
    assert compared["always the best"].cost_share == 1
    assert compared["always the cheapest"].quality == pytest.approx(0.375)
    assert compared["static mix"].cost_usd == pytest.approx(compared["router, pacing"].cost_usd)


def test_budgets_count_each_users_own_queries(tally: Tally, planned: Plan) -> None:
    """Spending and rejections are booked to the user who asked."""
    first, second = results.evaluate(tally, planned, "pacing").budgets
    assert (first.user_id, first.spent_usd, first.queries, first.rejected) == ("a", 4.0, 2, 1)
    assert (second.user_id, second.spent_usd, second.queries, second.rejected) == ("b", 7.0, 2, 0)


def test_latency_of_texts_and_embeddings_is_kept_apart(tally: Tally, planned: Plan) -> None:
    """The median of the three texts is 20 ms, of the one embedding 4 ms."""
    texts, embeddings = results.evaluate(tally, planned, "pacing").latencies
    assert (texts.kind, texts.queries, texts.at_percentiles[0]) == ("texts", 3, 20.0)
    assert (embeddings.kind, embeddings.queries, embeddings.at_percentiles[0]) == ("embeddings", 1, 4.0)


def test_repeated_decision_must_be_the_same_bytes(tally: Tally) -> None:
    """A repeat counts as same or different by its bytes."""
    tally.repeated("q0", b"{}")
    tally.repeated("q0", b"{ }")
    assert (tally.repeats_same, tally.repeats_different) == (1, 1)


def test_dead_letter_delivered_twice_counts_once(tally: Tally) -> None:
    """A dead letter is known by where its record came from, since delivery is at least once."""
    for _ in range(2):
        tally.set_aside(("queries", "0", "7"), "invalid_key")
    assert tally.dead == {"invalid_key": 1}


def test_a_decision_repeated_with_other_bytes_is_a_problem(tally: Tally, planned: Plan) -> None:
    """A second decision on a query that differs from the first is named."""
    tally.repeated("q0", b"{ }")
    wrong = verify.problems(tally, planned, _learned(3, 3), all_learn=True)
    assert wrong == ["repeated decisions with other bytes: 1 instead of 0"]


def test_a_run_as_promised_has_no_problems(tally: Tally, planned: Plan) -> None:
    """Every query answered, every routed one learned and settled: nothing to complain about."""
    assert verify.problems(tally, planned, _learned(3, 3), all_learn=True) == []


def test_lost_lessons_and_letters_are_named(tally: Tally, planned: Plan) -> None:
    """What is missing is named with both counts."""
    tally.expected_dead["invalid_key"] += 1
    wrong = verify.problems(tally, planned, _learned(2, 3), all_learn=True)
    assert wrong == ["dead letters invalid_key: 0 instead of 1", "rewards learned: 2 instead of 3"]


def test_preset_that_learns_from_some_may_learn_less(tally: Tally, planned: Plan) -> None:
    """Where only a share of the queries learns, fewer rewards are no problem."""
    assert verify.problems(tally, planned, _learned(1, 3), all_learn=False) == []


def test_report_stands_alone(tally: Tally, planned: Plan, tiny: Dataset, tmp_path: Path) -> None:
    """The page has the sentence, all tables and four plots, and loads nothing."""
    found = results.evaluate(tally, planned, "pacing")
    tables = summary.sections(found, tally, [], _learned(3, 3))
    path = tmp_path / "report.html"
    report.write(path, found, planned, tables, tiny.names)
    page = path.read_text(encoding="utf-8")
    assert found.sentence in page
    assert page.count("<svg") == 4
    assert all(f"<h2>{escape(table.title)}</h2>" in page for table in tables)
    assert not re.search(r"<(script|img|link)\b|url\(http", page)


def test_report_escapes_what_it_shows(tally: Tally, planned: Plan, tiny: Dataset, tmp_path: Path) -> None:
    """A name with markup in it is shown, not run."""
    tally.set_aside(("queries", "0", "7"), "<b>odd</b>")
    found = results.evaluate(tally, planned, "pacing")
    path = tmp_path / "report.html"
    report.write(path, found, planned, summary.sections(found, tally, [], _learned(3, 3)), tiny.names)
    assert "&lt;b&gt;odd&lt;/b&gt;" in path.read_text(encoding="utf-8")
