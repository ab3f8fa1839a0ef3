"""A query's life after its decision: what each part of its feedback does, and what it does again."""

from __future__ import annotations

import pytest

from tests.unit.core.lives import LARGE, choice, decided, feedback, lookup
from worker.core.arms import Arm
from worker.core.fence import Event
from worker.core.lifecycle import (
    MAX_DENIED,
    Feedback,
    Money,
    Outcome,
    Pending,
    Reward,
    Tokens,
    feed,
)
from worker.errors import DeadLetterCode

COST = Feedback(cost_nanos=3_000_000)
RATING = Feedback(reward=0.75)
TOKENS = Feedback(input_tokens=100, output_tokens=200)


def fed(pending: Pending, *said: Feedback, first: int = 7) -> tuple[Pending, list[Outcome]]:
    outcomes = []
    for number, event in enumerate(said):
        pending, outcome = feed(pending, event, feedback(first + number), 3_000 + number, lookup)
        outcomes.append(outcome)
    return pending, outcomes


class TestParts:
    """Money, reward and tokens, together or one by one."""

    def test_everything_at_once(self) -> None:
        """One feedback may settle the money, teach the reward and teach the tokens."""
        said = Feedback(reward=0.5, cost_nanos=9, input_tokens=1, output_tokens=2)
        after, (outcome,) = fed(decided(), said)
        assert after.money == Money(9, feedback(), "small")
        assert after.reward == Reward(0.5, feedback(), "small")
        assert after.tokens == Tokens(2, feedback(), "small")
        assert outcome == Outcome((("money", "applied"), ("reward", "applied"), ("tokens", "applied")))

    def test_in_parts(self) -> None:
        """Cost now and rating later give what both at once give, each under its own event."""
        after, outcomes = fed(decided(), COST, RATING)
        assert after.money == Money(3_000_000, feedback(7), "small")
        assert after.reward == Reward(0.75, feedback(8), "small")
        assert [outcome.parts for outcome in outcomes] == [(("money", "applied"),), (("reward", "applied"),)]

    @pytest.mark.parametrize("said", [COST, RATING, TOKENS])
    def test_second_of_a_kind_is_a_duplicate(self, said: Feedback) -> None:
        """A part that came already is counted as duplicate and leaves the very same record."""
        once, _ = fed(decided(), said)
        again, (outcome,) = fed(once, said, first=20)
        assert again is once
        assert {what for _, what in outcome.parts} == {"duplicate"}

    @pytest.mark.parametrize(
        "said", [COST, RATING, TOKENS, Feedback(failed=True), Feedback(1.0, 5, model="unheard-of")]
    )
    def test_replay_is_no_duplicate(self, said: Feedback) -> None:
        """The same record after a crash changes nothing and is told apart from a repetition by the caller."""
        once, _ = fed(decided(), said)
        again, (outcome,) = fed(once, said)
        assert again is once
        assert {what for _, what in outcome.parts} == {"replayed"}
        assert outcome.dead_letter is None

    def test_replay_does_not_ask_the_catalog(self) -> None:
        """What was applied stays applied although the model has left the catalog meanwhile, or has come."""
        substituted, _ = fed(decided(), Feedback(0.5, model="large"))
        gone = feed(substituted, Feedback(0.5, model="large"), feedback(), 9_000, lambda _: None)
        unknown, _ = feed(decided(), Feedback(0.5, 8, model="large"), feedback(), 3_000, lambda _: None)
        come = feed(unknown, Feedback(0.5, 8, model="large"), feedback(), 9_000, lookup)
        assert gone == (substituted, Outcome((("reward", "replayed"),)))
        assert come == (unknown, Outcome((("money", "replayed"), ("reward", "replayed"))))

    def test_change_is_dated_by_the_broker(self) -> None:
        """Each part that counts renews the time from which the decision is forgotten; a duplicate does not."""
        after, _ = fed(decided(timestamp=2_000), COST)
        assert after.changed_ms == 3_000
        again, _ = feed(after, COST, feedback(30), 99_000, lookup)
        assert again.changed_ms == 3_000


class TestMoney:
    """What a call cost, as given or as priced."""

    def test_tokens_settle_at_the_prices_of_the_decision(self) -> None:
        """Without a cost the tokens are priced as the decision was, whatever the catalog says now."""
        dear = choice(input_usd_per_mtok=2.0, output_usd_per_mtok=30.0, request_usd=0.001)
        after, _ = feed(decided(dear), TOKENS, feedback(), 3_000, lambda _: Arm("small", 999.0, 999.0))
        assert after.money == Money(1_000_000 + 100 * 2_000 + 200 * 30_000, feedback(), "small")

    def test_given_cost_goes_before_tokens(self) -> None:
        """Where both are given, the cost is the cost."""
        after, _ = fed(decided(), Feedback(cost_nanos=1, input_tokens=100, output_tokens=200))
        assert after.money == Money(1, feedback(), "small")

    def test_tokens_after_money_are_no_second_payment(self) -> None:
        """Tokens that come later are learned, and count as no duplicate of the money."""
        after, (_, outcome) = fed(decided(), COST, TOKENS)
        assert after.money == Money(3_000_000, feedback(7), "small")
        assert outcome == Outcome((("tokens", "applied"),))

    def test_cost_after_tokens_is_a_duplicate(self) -> None:
        """Once tokens have settled the money, an explicit cost comes too late."""
        after, (_, outcome) = fed(decided(), TOKENS, COST)
        assert after.money == Money(100 * 1_000 + 200 * 10_000, feedback(7), "small")
        assert outcome == Outcome((("money", "duplicate"),))

    def test_failure_costs_nothing_unless_it_says_so(self) -> None:
        """A failed call settles at 0, or at the cost that it names; nothing else is learned."""
        free, (outcome,) = fed(decided(), Feedback(failed=True))
        paid, _ = fed(decided(), Feedback(failed=True, cost_nanos=4))
        assert free.money == Money(0, feedback(), "small", failed=True)
        assert paid.money == Money(4, feedback(), "small", failed=True)
        assert (free.reward, free.tokens, free.guess) == (None, None, None)
        assert outcome == Outcome((("money", "applied"),))

    def test_failure_with_a_rating_teaches_it(self) -> None:
        """A reward that comes with a failure is learned."""
        after, _ = fed(decided(), Feedback(failed=True, reward=0.0))
        assert after.reward == Reward(0.0, feedback(), "small")


class TestGuess:
    """Output tokens that are inferred from a bill."""

    def test_cost_alone_implies_tokens(self) -> None:
        """Where only the bill is known, tokens are inferred at the stored prices: (3 m$ - 100 in) / 10 per M."""
        after, _ = fed(decided(), COST)
        assert after.guess == Tokens(290, feedback(), "small")
        assert after.tokens is None

    @pytest.mark.parametrize(
        "said", [Feedback(cost_nanos=9, input_tokens=1, output_tokens=2), Feedback(cost_nanos=9_000_000, failed=True)]
    )
    def test_no_guess_where_tokens_are_known_or_nothing_was_answered(self, said: Feedback) -> None:
        """Reported tokens need no guess, and a failed call answered nothing that could be counted."""
        after, _ = fed(decided(), said)
        assert after.guess is None

    @pytest.mark.parametrize(
        ("prices", "nanos"),
        [
            ({"output_usd_per_mtok": 0.0}, 3_000_000),
            ({"request_usd": 1.0}, 3_000_000),
            ({"output_usd_per_mtok": 1e-310, "input_usd_per_mtok": 0.0}, 10**15),
            ({"output_usd_per_mtok": 1e-12}, 10**15),
            ({}, 0),
        ],
    )
    def test_no_guess_from_a_bill_that_tells_nothing(self, prices: dict[str, float], nanos: int) -> None:
        """Free output, a bill below the prompt's price or a price next to nothing imply no tokens, and no crash."""
        after, _ = fed(decided(choice(**prices)), Feedback(cost_nanos=nanos))
        assert after.money == Money(nanos, feedback(), "small")
        assert after.guess is None

    def test_reported_tokens_are_still_learned_after_a_guess(self) -> None:
        """A guess is no report: tokens that come later are applied."""
        after, (_, outcome) = fed(decided(), COST, TOKENS)
        assert after.tokens == Tokens(200, feedback(8), "small")
        assert after.guess == Tokens(290, feedback(7), "small")
        assert outcome == Outcome((("tokens", "applied"),))


class TestAnotherModelRan:
    """The gateway fell back to another model than the one decided."""

    def test_known_model_is_substituted(self) -> None:
        """Everything counts for the model that ran, tokens at the prices it has when applied."""
        said = Feedback(reward=0.5, input_tokens=100, output_tokens=200, model="large")
        after, (outcome,) = fed(decided(), said)
        assert after.money == Money(100 * 10_000 + 200 * 100_000, feedback(), "large")
        assert after.reward == Reward(0.5, feedback(), "large")
        assert after.tokens == Tokens(200, feedback(), "large")
        assert {what for _, what in outcome.parts} == {"substituted"}

    def test_decided_model_may_be_named(self) -> None:
        """Naming the decided model is no substitution, even when the catalog has dropped it."""
        after, outcome = feed(decided(), Feedback(0.5, model="small"), feedback(), 3_000, lambda _: None)
        assert after.reward == Reward(0.5, feedback(), "small")
        assert outcome.parts == (("reward", "applied"),)

    def test_guess_uses_the_prices_of_the_model_that_ran(self) -> None:
        """A bill for another model implies tokens at that model's prices."""
        after, _ = fed(decided(), Feedback(cost_nanos=21_000_000, model="large"))
        assert after.guess == Tokens(200, feedback(), LARGE.model)

    def test_unknown_model_with_a_cost_settles_only(self) -> None:
        """Money of a model that nobody knows settles, and nothing is learned from the rest."""
        said = Feedback(reward=0.5, cost_nanos=8, input_tokens=1, output_tokens=2, model="unheard-of")
        after, (outcome,) = fed(decided(), said)
        assert after.money == Money(8, feedback(), None)
        assert (after.reward, after.tokens, after.guess) == (None, None, None)
        assert outcome == Outcome((("money", "unknown_model"),))

    def test_unknown_model_after_the_money_is_a_duplicate(self) -> None:
        """A second bill is a duplicate whoever sends it."""
        after, (_, outcome) = fed(decided(), COST, Feedback(cost_nanos=8, model="unheard-of"))
        assert after.money == Money(3_000_000, feedback(7), "small")
        assert outcome == Outcome((("money", "duplicate"),))

    @pytest.mark.parametrize("said", [Feedback(0.5), Feedback(failed=True), TOKENS])
    def test_unknown_model_without_a_cost_is_refused(self, said: Feedback) -> None:
        """Without a cost there is nothing to do with an unknown model; other feedback may still come."""
        named = Feedback(said.reward, None, said.input_tokens, said.output_tokens, said.failed, "unheard-of")
        after, (outcome, later) = fed(decided(), named, COST)
        assert outcome.dead_letter is not None
        assert outcome.dead_letter[0] is DeadLetterCode.UNKNOWN_MODEL
        assert "'unheard-of'" in outcome.dead_letter[1]
        assert later.parts == (("money", "applied"),)
        assert after.money == Money(3_000_000, feedback(8), "small")

    def test_refusal_stands_when_the_model_appears(self) -> None:
        """A replay refuses the same record again although the model is known by now."""
        refused, (outcome,) = fed(decided(), Feedback(0.5, model="unheard-of"))
        again = feed(refused, Feedback(0.5, model="unheard-of"), feedback(), 9_000, Arm)
        assert again == (refused, outcome)

    def test_remembered_refusals_are_few(self) -> None:
        """However many records name unknown models, only the last offsets are kept."""
        after, _ = fed(decided(), *[Feedback(0.5, model="unheard-of")] * (MAX_DENIED + 5))
        assert after.denied == tuple(range(12, 12 + MAX_DENIED))
        assert after.last_feedback == 7 + MAX_DENIED + 4


def test_rejected_query_takes_no_feedback() -> None:
    """No model ran, so every feedback to a rejection is refused, each time, and leaves no trace."""
    rejected = decided(rejected=True)
    after, outcomes = fed(rejected, COST, RATING, COST)
    assert after is rejected
    codes = [outcome.dead_letter and outcome.dead_letter[0] for outcome in outcomes]
    assert codes == [DeadLetterCode.NOT_ROUTED] * 3


@pytest.mark.parametrize(
    ("pending", "last"),
    [
        (Pending(), -1),
        (decided(), -1),
        (decided(early={3: COST}), -1),
        (fed(decided(), COST, RATING)[0], 8),
        (fed(decided(), Feedback(0.5, model="unheard-of"))[0], 7),
    ],
)
def test_last_feedback_names_the_last_offset_that_matters(pending: Pending, last: int) -> None:
    """A record may be forgotten once the feedback it depends on is committed; parked parts belong to the query."""
    assert pending.last_feedback == last


def test_prices_of_the_choice_make_its_arm() -> None:
    """The chosen model is priced as it was at the decision."""
    assert choice().arm == Arm("small", 1.0, 10.0, 0.0)
    assert (decided().reservation, decided().expected) == (40_000_000, 20_000_000)
    assert decided().event == Event("Q", 5)  # type: ignore[arg-type]
