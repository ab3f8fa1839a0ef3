"""What one event teaches about which model."""

from __future__ import annotations

import numpy as np

from tests.unit.core.lives import CONTEXT, PREDICTED, decided, feedback, lookup, query
from worker.core.fence import Event
from worker.core.learn import Lesson
from worker.core.lifecycle import Feedback, Pending, feed, lessons


def taught(pending: Pending, event: Event) -> dict[str, dict[str, object]]:
    """Lessons by model, without the context and what is absent."""
    found = {}
    for model, lesson in lessons(pending, event):
        np.testing.assert_array_equal(lesson.context, CONTEXT)
        fields = {name: getattr(lesson, name) for name in Lesson._fields if name != "context"}
        found[model] = {name: value for name, value in fields.items() if value is not None and value is not False}
    return found


def after(*said: Feedback, early: dict[int, Feedback] | None = None) -> Pending:
    pending = decided(early=early)
    for number, event in enumerate(said):
        pending, _ = feed(pending, event, feedback(7 + number), 3_000, lookup)
    return pending


def test_event_teaches_its_own_parts() -> None:
    """Cost and rating in two records are two lessons, each with its own part."""
    pending = after(Feedback(cost_nanos=3_000_000), Feedback(reward=0.75))
    bill = {"cost_nanos": 3_000_000, "predicted_nanos": PREDICTED, "output_tokens": 290}
    assert taught(pending, feedback(7)) == {"small": bill}
    assert taught(pending, feedback(8)) == {"small": {"reward": 0.75}}
    assert taught(pending, query()) == {}


def test_reported_tokens_replace_the_guess() -> None:
    """Tokens that come after a bill revise what was inferred from it."""
    pending = after(Feedback(cost_nanos=3_000_000), Feedback(input_tokens=1, output_tokens=5))
    assert taught(pending, feedback(8)) == {"small": {"output_tokens": 5, "guessed_tokens": 290}}


def test_tokens_of_another_model_leave_the_guess() -> None:
    """Tokens reported for another model revise nothing that was inferred for the first."""
    pending = after(Feedback(cost_nanos=3_000_000), Feedback(input_tokens=1, output_tokens=5, model="large"))
    assert taught(pending, feedback(8)) == {"large": {"output_tokens": 5}}


def test_early_bill_and_early_tokens_teach_the_tokens_once() -> None:
    """Under the query's event the reported count is learned, not the guess beside it."""
    pending = after(early={2: Feedback(cost_nanos=3_000_000), 3: Feedback(input_tokens=1, output_tokens=5)})
    lesson = {"cost_nanos": 3_000_000, "predicted_nanos": PREDICTED, "output_tokens": 5}
    assert taught(pending, query()) == {"small": lesson}


def test_parts_of_two_models_are_two_lessons() -> None:
    """Early money of one model and an early rating of another teach each its own."""
    early = {2: Feedback(failed=True, model="large"), 3: Feedback(reward=0.5)}
    assert taught(after(early=early), query()) == {
        "large": {"cost_nanos": 0, "failed": True},
        "small": {"reward": 0.5},
    }


def test_prediction_is_compared_only_with_the_call_it_was_made_for() -> None:
    """The cost of a failed call, or of another model, says nothing about the prediction."""
    failed = taught(after(Feedback(failed=True, cost_nanos=4)), feedback(7))
    other = taught(after(Feedback(cost_nanos=21_000_000, model="large")), feedback(7))
    assert failed == {"small": {"cost_nanos": 4, "failed": True}}
    assert other == {"large": {"cost_nanos": 21_000_000, "output_tokens": 200}}


def test_unknown_model_and_rejection_teach_nothing() -> None:
    """Nothing is learned about a model nobody knows, or where no model ran."""
    assert taught(after(Feedback(0.5, 8, model="unheard-of")), feedback(7)) == {}
    assert taught(decided(rejected=True), query()) == {}


def test_reward_of_zero_is_a_lesson() -> None:
    """A rating of 0 teaches; it is not a missing rating."""
    assert taught(after(Feedback(reward=0.0)), feedback(7)) == {"small": {"reward": 0.0}}
