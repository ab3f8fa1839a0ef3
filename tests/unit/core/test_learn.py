"""What each part of a feedback record adds to the sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker.core.learn import Lesson, learn
from worker.core.statistics import ArmStatistics

X = np.array([0.6, 0.8, 1.0])


def after(*lessons: Lesson) -> ArmStatistics:
    statistics = ArmStatistics.zeros(3)
    for lesson in lessons:
        learn(statistics, lesson)
    return statistics


def test_reward_teaches_only_the_reward() -> None:
    """A rating changes the reward sums and nothing else."""
    found = after(Lesson(X, reward=0.25))
    np.testing.assert_array_equal(found.reward.b, 0.25 * X)
    np.testing.assert_array_equal(found.reward.A, np.outer(X, X))
    assert (found.reward.n, found.reward.total, found.reward.squares) == (1, 0.25, 0.0625)
    assert (found.log_tokens.n, found.output_tokens, found.costs_settled, found.errors) == (0, 0, 0, 0)


def test_reward_of_zero_is_learned() -> None:
    """A reward of 0 is a bad answer, not a missing rating."""
    assert after(Lesson(X, reward=0.0)).reward.n == 1


def test_tokens_are_learned_as_logs_and_summed_as_counts() -> None:
    """Output tokens enter the regression as their log and the total as they are."""
    found = after(Lesson(X, output_tokens=400), Lesson(X, output_tokens=100))
    assert found.log_tokens.total == pytest.approx(math.log(400) + math.log(100))
    assert (found.log_tokens.n, found.output_tokens) == (2, 500)


def test_empty_answer_counts_as_one_token() -> None:
    """No output has a log: it is learned as one token, and counted as none."""
    found = after(Lesson(X, output_tokens=0))
    assert (found.log_tokens.n, found.log_tokens.total, found.output_tokens) == (1, 0.0, 0)


def test_true_count_replaces_the_guess() -> None:
    """A count after one that was inferred from money leaves the sums of the true count alone."""
    found = after(Lesson(X, output_tokens=900), Lesson(X, output_tokens=300, guessed_tokens=900))
    expected = after(Lesson(X, output_tokens=300))
    assert (found.log_tokens.n, found.output_tokens) == (1, 300)
    np.testing.assert_allclose(found.log_tokens.b, expected.log_tokens.b)
    assert found.log_tokens.squares == pytest.approx(expected.log_tokens.squares)


def test_settled_money_enters_the_bias_only_beside_a_prediction() -> None:
    """A cost without a comparable prediction is counted, and leaves both cost sums alone."""
    found = after(Lesson(X, cost_nanos=700, predicted_nanos=500), Lesson(X, cost_nanos=9_000))
    assert (found.costs_settled, found.cost_true_nanos, found.cost_predicted_nanos) == (2, 700, 500)


def test_failure_is_counted_and_settles_at_zero() -> None:
    """A failed call is one error and one settled money part, and no reward."""
    found = after(Lesson(X, cost_nanos=0, failed=True))
    assert (found.errors, found.costs_settled, found.reward.n, found.cost_true_nanos) == (1, 1, 0, 0)


def test_absurd_costs_fit_into_the_packed_sums() -> None:
    """Costs that no 64 bits can hold saturate: the shard can still be written."""
    nonsense = Lesson(X, cost_nanos=4 * 10**18, predicted_nanos=4 * 10**18)
    found = after(*[nonsense] * 5)
    assert ArmStatistics.unpack(found.pack()).cost_true_nanos == 2**63 - 1
