"""Settle: feedback in, money and lessons applied once, or set aside."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.stream.agents import MIDNIGHT, START_MS, Agents, code, content
from tests.unit.stream.doubles import FEEDBACK, PARTITIONS, settings
from worker.core.fence import Fence
from worker.core.ledger import Spend
from worker.core.prior import default_prior
from worker.errors import ExitCode, WorkerMustStop
from worker.kafka.partitioning import partition_of
from worker.observe import records
from worker.stream.answer import expected_reward
from worker.stream.batch import Journal
from worker.stream.state import SpendKey

LANE = partition_of(b"u", PARTITIONS)


@pytest.fixture
async def agents(journal: Journal) -> Agents:
    found = Agents(settings(embedding_dim=384), journal, default_prior())
    found.model("small")
    found.budget("u", 1.0)
    found.query()
    found.deliver()
    found.notebook.records.clear()
    return found


def outcomes(agents: Agents) -> list[tuple[str, str]]:
    return [(record.part, record.outcome) for record in agents.notebook.of(records.FeedbackPartHandled)]


class TestApplied:
    """Feedback to a decided query."""

    async def test_money_settles_and_releases(self, agents: Agents) -> None:
        """The cost takes the place of the reservation in the window of the query, whenever it comes."""
        agents.say(cost_usd=0.25, at_ms=START_MS + 3 * 86_400_000)
        assert (agents.spend().settled, agents.spend().reserved, agents.spend().expected) == (250_000_000, 0, 0)
        assert agents.spend(window=MIDNIGHT + 3 * 86_400) == Spend()
        (settled,) = agents.notebook.of(records.MoneySettled)
        assert (settled.model, settled.nanos) == ("small", 250_000_000)

    async def test_expectations_stand_beside_what_came(self, agents: Agents) -> None:
        """Cost and reward are reported with what the decision expected of the same model."""
        agents.query("other")
        agents.say("other", cost_usd=0.25, reward=0.5)
        (settled,), (rewarded,) = agents.notebook.of(records.MoneySettled), agents.notebook.of(records.RewardGiven)
        pending = agents.pending("other")
        assert pending is not None
        assert pending.choice is not None
        assert settled.expected_nanos == pending.choice.expected
        assert rewarded.expected == expected_reward(pending.decision or b"")

    async def test_another_model_was_not_expected(self, agents: Agents) -> None:
        """A substitute's outcome says nothing about what was expected of the decided model."""
        agents.model("large", 100.0)
        agents.say(cost_usd=0.25, reward=0.5, model="large")
        (settled,), (rewarded,) = agents.notebook.of(records.MoneySettled), agents.notebook.of(records.RewardGiven)
        assert (settled.expected_nanos, rewarded.expected) == (None, None)

    async def test_first_feedback_is_timed_once(self, agents: Agents) -> None:
        """From the query's broker time to the first feedback's; what comes later is not the first."""
        agents.say(reward=1.0, at_ms=START_MS + 1500)
        agents.say(cost_usd=0.25, at_ms=START_MS + 9000)
        assert agents.notebook.of(records.FeedbackArrived) == [records.FeedbackArrived(1.5)]

    async def test_parts_count_once_each(self, agents: Agents) -> None:
        """Cost, rating and tokens one by one, then all again: nothing moves, and duplicates are counted."""
        for fields in ({"cost_usd": 0.25}, {"reward": 0.5}, {"input_tokens": 1, "output_tokens": 9}):
            agents.say(**fields)
        learned = agents.learned("small")
        assert learned is not None
        before = (agents.spend(), learned.pack())
        agents.notebook.records.clear()
        agents.say(cost_usd=0.5, reward=1.0, input_tokens=1, output_tokens=8)
        assert (agents.spend(), learned.pack()) == before
        assert outcomes(agents) == [("money", "duplicate"), ("reward", "duplicate"), ("tokens", "duplicate")]
        assert (learned.reward.n, learned.costs_settled, learned.output_tokens) == (1, 1, 9)

    async def test_duplicate_writes_nothing(self, agents: Agents) -> None:
        """What changes nothing costs no changelog record."""
        agents.say(reward=0.5)
        agents.deliver()
        agents.say(reward=0.5)
        batch = agents.journal.batch
        assert (batch.pending, batch.spend, batch.shards, batch.outputs) == ({}, {}, {}, [])
        assert [event.offset for _, event in agents.swept.mentioned] == [1]

    async def test_replayed_record_changes_and_counts_nothing(self, agents: Agents) -> None:
        """The same offset after a crash is no duplicate of the caller's and moves nothing."""
        agents.say(cost_usd=0.25, reward=0.5, offset=3)
        spend, learned = agents.spend(), agents.learned("small")
        assert learned is not None
        packed = learned.pack()
        agents.notebook.records.clear()
        agents.say(cost_usd=0.25, reward=0.5, offset=3)
        assert (agents.spend(), learned.pack(), agents.notebook.records) == (spend, packed, [])

    async def test_another_model_that_ran_learns(self, agents: Agents) -> None:
        """The gateway fell back: money and lessons belong to the model that ran, the reservation is released."""
        agents.model("large", output_usd_per_mtok=100.0)
        agents.say(model="large", reward=0.5, input_tokens=100, output_tokens=1_000)
        assert (agents.spend().settled, agents.spend().reserved) == (100_000 + 100_000_000, 0)
        assert agents.learned("small") is None
        large = agents.learned("large")
        assert large is not None
        assert (large.reward.n, large.output_tokens) == (1, 1_000)
        assert outcomes(agents) == [("money", "substituted"), ("reward", "substituted"), ("tokens", "substituted")]
        assert agents.notebook.of(records.MoneySettled)[0].model == "large"

    async def test_unknown_model_with_cost_settles(self, agents: Agents) -> None:
        """Money settles, nothing is learned, counted unknown_model."""
        assert agents.say(model="unheard-of", cost_usd=0.25, reward=1.0) == []
        assert agents.spend().settled == 250_000_000
        assert (agents.learned("small"), agents.learned("unheard-of")) == (None, None)
        assert outcomes(agents) == [("money", "unknown_model")]
        (settled,) = agents.notebook.of(records.MoneySettled)
        assert (settled.model, settled.nanos) == ("", agents.spend().settled)

    @pytest.mark.parametrize(("status", "cost", "nanos"), [("error", None, 0), ("timeout", 0.1, 100_000_000)])
    async def test_failure_settles_and_is_counted_by_model(
        self, agents: Agents, status: Any, cost: float | None, nanos: int
    ) -> None:
        """At the given cost, else at 0; no reward is learned."""
        agents.say(status=status, cost_usd=cost)
        assert (agents.spend().settled, agents.spend().reserved) == (nanos, 0)
        learned = agents.learned("small")
        assert learned is not None
        assert (learned.errors, learned.costs_settled, learned.reward.n) == (1, 1, 0)
        assert agents.notebook.of(records.CallFailed) == [records.CallFailed("small", status)]

    async def test_late_money_lets_its_window_expire_again(self, agents: Agents) -> None:
        """Feedback may write a window that was dropped; the sweeper is told, so it does not stay for ever."""
        agents.swept.windows.clear()
        agents.say(cost_usd=0.25)
        assert agents.swept.windows == [SpendKey("u", MIDNIGHT)]


class TestParked:
    """Feedback whose decision does not exist yet."""

    async def test_it_waits_in_state(self, agents: Agents) -> None:
        """No output, no money, counted parked; the sweeper watches it."""
        assert agents.say("later", reward=1.0) == []
        held = agents.pending("later")
        assert held is not None
        assert len(held.parked) == 1
        assert outcomes(agents) == [("record", "parked")]
        assert b"u\0later" in agents.swept.pending

    async def test_ninth_is_a_dead_letter_at_once(self, agents: Agents) -> None:
        """Eight wait; the ninth is unknown_query and the eight are applied later."""
        emitted = [agents.say("later", reward=number / 10) for number in range(9)]
        assert [len(outputs) for outputs in emitted] == [0] * 8 + [1]
        assert code(emitted[-1][0]) == "unknown_query"
        agents.query("later")
        learned = agents.learned("small")
        assert learned is not None
        assert (learned.reward.n, learned.reward.total) == (1, 0.0)


class TestSetAside:
    """Feedback that cannot be used."""

    async def test_feedback_to_a_rejection(self, agents: Agents) -> None:
        """not_routed, each time."""
        agents.without_model("small")
        agents.query("rejected")
        for _ in range(2):
            (letter,) = agents.say("rejected", reward=1.0)
            assert code(letter) == "not_routed"

    async def test_unknown_model_without_cost(self, agents: Agents) -> None:
        """unknown_model; the reservation stays for feedback that can be used."""
        reserved = agents.spend().reserved
        (letter,) = agents.say(model="unheard-of", reward=1.0)
        assert code(letter) == "unknown_model"
        assert agents.spend().reserved == reserved
        agents.say(cost_usd=0.25)
        assert agents.spend().settled == 250_000_000

    async def test_refused_failure_reports_no_money(self, agents: Agents) -> None:
        """A failure of a model that nobody knows is set aside; the money that settled before is not reported again."""
        agents.say(cost_usd=0.25)
        agents.notebook.records.clear()
        (letter,) = agents.say(status="error", model="unheard-of")
        assert code(letter) == "unknown_model"
        assert agents.notebook.of(records.MoneySettled) + agents.notebook.of(records.CallFailed) == []

    @pytest.mark.parametrize(
        ("event", "place", "expected"),
        [
            (b"nonsense", {"key": b"u", "partition": LANE}, "invalid_json"),
            ({"user_id": "u", "query_id": "q", "reward": 2}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": "0.5"}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": True}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q"}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": 1, "input_tokens": 3}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": 1, "source": "x" * 17_000}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": 1}, {"headers": (("h", b"x" * 70_000),)}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "reward": 1}, {"key": b"v"}, "invalid_key"),
            ({"user_id": "u", "query_id": "q", "reward": 1}, {"partition": LANE ^ 1}, "wrong_partition"),
        ],
    )
    async def test_bad_record_becomes_a_dead_letter(
        self, agents: Agents, event: Any, place: dict[str, Any], expected: str
    ) -> None:
        """The first code that applies, the original value, no state, and the stream goes on."""
        record = agents.record(FEEDBACK, event, **place)
        (letter,) = agents.handle(record)
        assert (code(letter), letter.value, letter.key) == (expected, record.value, record.key)
        assert agents.journal.batch.pending == {}
        assert outcomes(agents) == [("record", "dead_letter")]
        assert agents.say(reward=0.5) == []

    async def test_ledger_that_knows_more_than_the_arbiter_stops_the_worker(self, agents: Agents) -> None:
        """Spend contains a feedback that its query does not know: state is broken, 74."""
        agents.journal.put_spend(LANE, SpendKey("u", MIDNIGHT), Spend(queries=1, fence=Fence(0, 9)))
        with pytest.raises(WorkerMustStop, match="but its query does not know it") as caught:
            agents.say(cost_usd=0.25, offset=9)
        assert caught.value.code is ExitCode.STATE_BROKEN


@pytest.mark.parametrize(("share", "rewards"), [(1.0, 1), (1e-9, 0)])
async def test_only_the_learning_share_teaches_rewards(journal: Journal, share: float, rewards: int) -> None:
    """Preset paper: outside the learning bucket a query settles and teaches tokens, early or late, but no reward."""
    agents = Agents(settings(embedding_dim=384), journal, default_prior(), learning_share=share)
    agents.model("small")
    agents.say("early", reward=1.0, input_tokens=1, output_tokens=9)
    agents.query("early")
    agents.query("late")
    agents.say("late", reward=1.0, input_tokens=1, output_tokens=9)
    learned = agents.learned("small")
    assert learned is not None
    assert (learned.reward.n, learned.output_tokens, learned.costs_settled) == (2 * rewards, 18, 2)


async def test_cost_above_its_bound_is_reported(journal: Journal) -> None:
    """With worst_case reservations a cost above the bound is counted: the guarantee rests on that."""
    agents = Agents(settings(embedding_dim=384, reserve="worst_case"), journal, default_prior(), reserve="worst_case")
    agents.model("small", max_output_tokens=100)
    agents.budget("u", 1.0)
    (decision,) = agents.query()
    bound = round(content(decision)["reservation_usd"] * 1e9)
    assert bound == 100 * 1_000 + 100 * 10_000
    agents.say(cost_usd=0.25)
    assert agents.notebook.of(records.CostAboveBound) == [records.CostAboveBound("small", 250_000_000, bound)]
