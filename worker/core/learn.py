"""What one piece of feedback adds to the sums of the arm that ran."""

from __future__ import annotations

import math
from typing import NamedTuple

from worker.core.statistics import ArmStatistics
from worker.core.verdict import FloatArray
from worker.money import saturated


class Lesson(NamedTuple):
    """The parts of a feedback record that are new; a part that is None teaches nothing.

    `context` has shape (d,). `guessed_tokens` is a count that was inferred from money
    and learned earlier; `output_tokens` replaces it. `cost_nanos` is a settled money
    part and `predicted_nanos` what the cost model had said for it, None where the two
    cannot be compared (another model ran, the call failed).
    """

    context: FloatArray
    reward: float | None = None
    output_tokens: int | None = None
    guessed_tokens: int | None = None
    cost_nanos: int | None = None
    predicted_nanos: int | None = None
    failed: bool = False


def learn(statistics: ArmStatistics, lesson: Lesson) -> None:
    """Add the lesson to the sums, in place."""
    context, reward, tokens, guessed, cost, predicted, failed = lesson
    if reward is not None:
        statistics.reward.learn(context, reward)
    if tokens is not None:
        outcome = log_tokens(tokens)
        if guessed is None:
            statistics.log_tokens.learn(context, outcome)
            statistics.output_tokens += tokens
        else:
            statistics.log_tokens.revise(context, log_tokens(guessed), outcome)
            statistics.output_tokens += tokens - guessed
    if cost is not None:
        statistics.costs_settled += 1
        if predicted is not None:
            statistics.cost_true_nanos = saturated(statistics.cost_true_nanos + cost)
            statistics.cost_predicted_nanos = saturated(statistics.cost_predicted_nanos + predicted)
    if failed:
        statistics.errors += 1


def log_tokens(tokens: int) -> float:
    """The outcome that the token model learns: log of a count, an empty answer counted as one token."""
    return math.log(tokens) if tokens > 1 else 0.0
