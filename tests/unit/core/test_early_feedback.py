"""Feedback that comes before its decision: parked, applied with it, refused, expired."""

from __future__ import annotations

import pytest

from tests.unit.core.lives import WINDOW, choice, decided, feedback, lookup, parked, query
from worker.core.lifecycle import (
    MAX_PARKED,
    Feedback,
    Money,
    Outcome,
    Pending,
    Reward,
    decide,
    expire_parked,
    feed,
    park,
)
from worker.errors import DeadLetterCode

RATING = Feedback(reward=0.75)


def crowd(count: int, first: int = 10) -> tuple[Pending, list[Outcome]]:
    pending, outcomes = Pending(), []
    for offset in range(first, first + count):
        pending, outcome = park(pending, parked(offset, timestamp=offset * 100), RATING)
        outcomes.append(outcome)
    return pending, outcomes


class TestParking:
    """Eight places a query."""

    def test_record_is_kept_as_received(self) -> None:
        """Key, value, headers and broker time wait in state, and the change is dated by the broker."""
        after, outcome = park(Pending(), parked(3, b"raw", 1_234), Feedback(0.5, 7))
        assert after.parked == (parked(3, b"raw", 1_234),)
        assert (after.changed_ms, after.last_feedback) == (1_234, 3)
        assert outcome == Outcome((("money", "parked"), ("reward", "parked")))

    def test_replayed_record_takes_no_second_place(self) -> None:
        """The same record after a crash is found in its place."""
        once, _ = park(Pending(), parked(3), RATING)
        assert park(once, parked(3), RATING) == (once, Outcome((("reward", "replayed"),)))

    def test_ninth_is_refused_at_once(self) -> None:
        """Eight wait; the ninth is unknown_query at once, and the eight stay."""
        pending, outcomes = crowd(MAX_PARKED + 1)
        assert [record.offset for record in pending.parked] == list(range(10, 18))
        assert [outcome.dead_letter is None for outcome in outcomes] == [True] * 8 + [False]
        assert outcomes[-1].dead_letter is not None
        assert outcomes[-1].dead_letter[0] is DeadLetterCode.UNKNOWN_QUERY

    def test_refused_ones_are_refused_again_after_the_decision(self) -> None:
        """A replay that finds the query decided refuses the same records again."""
        pending, _ = crowd(MAX_PARKED + 3)
        known = pending._replace(decision=b"{}", choice=choice(), parked=())
        outcomes = [feed(known, RATING, feedback(offset), 9_000, lookup) for offset in (18, 19, 20)]
        assert all(after is known and outcome.dead_letter is not None for after, outcome in outcomes)
        assert pending.last_feedback == 20

    def test_refused_one_takes_no_place_that_became_free(self) -> None:
        """A replay of a crowded-out record is refused although places are free by now."""
        pending, _ = crowd(MAX_PARKED + 1)
        after, outcome = park(pending._replace(parked=pending.parked[:2]), parked(18), RATING)
        assert outcome.dead_letter is not None
        assert len(after.parked) == 2


class TestDeciding:
    """What waited is applied with the decision, under the query's event."""

    def test_early_parts_count_under_the_query(self) -> None:
        """The query's replay is what brings early feedback back, so its event owns the parts."""
        after = decided(early={2: Feedback(cost_nanos=5), 3: RATING})
        assert after.money == Money(5, query(), "small")
        assert after.reward == Reward(0.75, query(), "small")
        assert (after.parked, after.refused, after.last_feedback) == ((), (), -1)

    def test_first_of_a_kind_wins_and_the_second_is_a_duplicate(self) -> None:
        """In feedback order; what comes second is counted duplicate although both share the query's event."""
        early = {b"2": Feedback(0.25), b"3": Feedback(0.5, 8), b"4": Feedback(cost_nanos=9)}
        before = Pending(parked=tuple(parked(int(value), value) for value in early))
        after, outcomes = decide(
            before,
            decision=b"{}",
            event=query(),
            window=WINDOW,
            choice=choice(),
            timestamp=1,
            parse=early.__getitem__,
            lookup=lookup,
        )
        assert after.reward == Reward(0.25, query(), "small")
        assert after.money == Money(8, query(), "small")
        assert [outcome.parts for outcome in outcomes] == [
            (("reward", "applied"),),
            (("money", "applied"), ("reward", "duplicate")),
            (("money", "duplicate"),),
        ]

    def test_early_bill_and_early_tokens_agree(self) -> None:
        """Tokens parked behind a bill are no second payment."""
        tokens = Feedback(input_tokens=1, output_tokens=2)
        after = decided(early={2: Feedback(cost_nanos=5), 3: tokens})
        assert after.money == Money(5, query(), "small")
        assert after.tokens is not None
        assert after.tokens.number == 2

    @pytest.mark.parametrize(
        ("rejected", "said", "code"),
        [
            (True, RATING, DeadLetterCode.NOT_ROUTED),
            (False, Feedback(0.5, model="unheard-of"), DeadLetterCode.UNKNOWN_MODEL),
        ],
    )
    def test_refused_early_feedback_is_kept_for_replays(
        self, rejected: bool, said: Feedback, code: DeadLetterCode
    ) -> None:
        """What cannot be applied stays with its raw record, so that each replay tells it again."""
        after = decided(rejected=rejected, early={2: said, 3: said})
        assert [(entry.record.offset, entry.code) for entry in after.refused] == [(2, code), (3, code)]
        again, outcome = feed(after, said, feedback(2), 9_000, lookup)
        assert again is after
        assert outcome.dead_letter == (code, after.refused[0].message)

    def test_decision_renews_the_time(self) -> None:
        """The time to live of a decision starts at its query, not at early feedback."""
        assert decided(early={2: RATING}, timestamp=5_000).changed_ms == 5_000


class TestExpiry:
    """Early feedback whose query never came."""

    def test_each_record_expires_by_its_own_time(self) -> None:
        """Only what was received long enough ago is refused; younger records wait on."""
        pending, _ = crowd(3)
        after = expire_parked(pending, 1_100)
        assert [record.offset for record in after.parked] == [12]
        assert [(entry.record.offset, entry.code) for entry in after.refused] == [
            (10, DeadLetterCode.UNKNOWN_QUERY),
            (11, DeadLetterCode.UNKNOWN_QUERY),
        ]

    def test_expired_record_is_refused_again_by_a_replay(self) -> None:
        """After its expiry the same record is refused, not parked anew."""
        after = expire_parked(crowd(1)[0], 9_999)
        again, outcome = park(after, parked(10), RATING)
        assert again is after
        assert outcome.dead_letter == (DeadLetterCode.UNKNOWN_QUERY, after.refused[0].message)

    def test_nothing_late_changes_nothing(self) -> None:
        """Expiring when nothing is due gives an equal record."""
        pending, _ = crowd(2)
        assert expire_parked(pending, 0) == pending
