"""Route: a query in, one decision out, however often it comes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.stream.agents import EMBEDDING, MIDNIGHT, START_MS, Agents, code, content
from tests.unit.stream.doubles import PARTITIONS, QUERIES, settings
from worker.core.fence import Fence
from worker.core.ledger import Spend
from worker.core.prior import default_prior
from worker.core.verdict import History
from worker.errors import ExitCode, WorkerMustStop
from worker.kafka.partitioning import partition_of
from worker.observe import records
from worker.stream import route
from worker.stream.batch import Journal
from worker.stream.route import Prepared
from worker.stream.state import SpendKey

LANE = partition_of(b"u", PARTITIONS)


@pytest.fixture
async def agents(journal: Journal) -> Agents:
    found = Agents(settings(embedding_dim=384), journal, default_prior())
    found.model("small")
    found.budget("u", 1.0)
    return found


class TestDecision:
    """A new query."""

    async def test_decision_goes_to_the_lane_of_its_query(self, agents: Agents) -> None:
        """One decision, on the partition and with the key of the query, about the model at hand."""
        (output,) = agents.query(headers=(("traceparent", b"00-1"), ("empty", None)), offset=41)
        assert (output.topic, output.partition, output.key) == ("t.decisions", LANE, b"u")
        assert output.headers == (("traceparent", b"00-1"), ("empty", None))
        found = content(output)
        assert (found["status"], found["model"], found["source"]) == (
            "routed",
            "small",
            {"partition": LANE, "offset": 41},
        )

    async def test_budget_in_the_decision_is_after_its_reservation(self, agents: Agents) -> None:
        """What is shown as reserved contains this decision, and equals what the ledger holds."""
        (output,) = agents.query()
        found = content(output)
        assert found["budget"]["reserved_usd"] == found["reservation_usd"] > 0
        assert found["budget"]["remaining_usd"] == pytest.approx(1.0 - found["reservation_usd"])
        assert agents.spend().reserved == round(found["reservation_usd"] * 1e9)
        assert agents.spend().queries == 1

    async def test_state_keeps_what_feedback_needs(self, agents: Agents) -> None:
        """The decision's bytes, window, prices and context wait for the feedback, and will expire."""
        (output,) = agents.query(input_tokens=7)
        held = agents.pending()
        assert held is not None
        assert held.choice is not None
        assert (held.decision, held.window, held.changed_ms) == (output.value, MIDNIGHT, START_MS)
        assert (held.choice.model, held.choice.output_usd_per_mtok, held.choice.input_tokens) == ("small", 10.0, 7)
        assert held.choice.context.shape == (default_prior().projection.dimension,)
        assert agents.swept.pending == [b"u\0q"]
        assert agents.swept.windows == [SpendKey("u", MIDNIGHT)]

    async def test_rejection_is_recorded_and_reserves_nothing(self, agents: Agents) -> None:
        """Without a model the query is rejected, remembered and counted in its window."""
        agents.without_model("small")
        (output,) = agents.query()
        assert (content(output)["status"], content(output)["reason"]) == ("rejected", "no_model")
        assert (agents.spend().reserved, agents.spend().queries) == (0, 1)
        held = agents.pending()
        assert held is not None
        assert held.choice is None

    async def test_exhausted_budget_rejects(self, agents: Agents) -> None:
        """What is reserved counts against the limit."""
        agents.budget("u", 1e-9)
        (output,) = agents.query()
        assert content(output)["reason"] == "budget_exhausted"
        assert content(output)["budget"]["limit_usd"] == 1e-9

    async def test_user_without_limit(self, agents: Agents) -> None:
        """No record for the user and none for everybody else: no budget, and that is counted."""
        (output,) = agents.query(user_id="free")
        assert content(output)["budget"] is None
        assert agents.notebook.of(records.UnlimitedQuery) == [records.UnlimitedQuery()]
        assert agents.spend("free").reserved > 0

    async def test_it_is_reported_when_it_is_out(self, agents: Agents) -> None:
        """A decision counts, with its latency since the broker's time, once it is acknowledged."""
        agents.query()
        assert agents.notebook.of(records.QueryHandled) == []
        agents.deliver()
        assert agents.notebook.of(records.QueryHandled) == [records.QueryHandled("routed")]
        (sent,) = agents.notebook.of(records.DecisionSent)
        assert (sent.policy, sent.status, sent.model, sent.reason) == ("pacing", "routed", "small", None)
        assert sum(sent.stages) > 0
        assert sent.estimated_nanos == sent.baseline_nanos > 0
        assert sent.expected_reward == sent.baseline_reward
        assert sent.uncertainty > 0

    async def test_latency_is_the_sum_of_its_stages(self, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
        """From the broker's time to taking up, to its turn, to the decision, to the acknowledgement."""
        times = iter([START_MS / 1000 + passed for passed in (0.5, 0.75, 1.75, 3.75)])
        monkeypatch.setattr(route.time, "time", lambda: next(times))
        agents.query()
        agents.deliver()
        (sent,) = agents.notebook.of(records.DecisionSent)
        assert sent.stages == records.Stages(wait=0.5, encode=0.25, decide=1.0, write=2.0)


class TestAgain:
    """The same query once more."""

    async def test_repeated_query_gets_the_recorded_decision(self, agents: Agents) -> None:
        """Byte for byte, with the headers of the repeating record; nothing is reserved twice."""
        (first,) = agents.query(headers=(("attempt", b"1"),))
        spend = agents.spend()
        agents.model("better")
        (again,) = agents.query(headers=(("attempt", b"2"),), at_ms=START_MS + 5_000)
        assert (again.value, again.headers) == (first.value, (("attempt", b"2"),))
        assert agents.spend() == spend
        assert agents.notebook.of(records.QueryHandled) == [records.QueryHandled("repeated")]
        assert [event.offset for _, event in agents.swept.mentioned] == [1]

    async def test_repeated_rejection_stays_a_rejection(self, agents: Agents) -> None:
        """A model that appears later does not change what was answered."""
        agents.without_model("small")
        (first,) = agents.query()
        agents.model("small")
        (again,) = agents.query()
        assert again.value == first.value

    async def test_repeat_in_a_later_window_touches_no_budget(self, agents: Agents) -> None:
        """The recorded window counts; the new one is not even opened."""
        agents.query()
        agents.query(at_ms=START_MS + 86_400_000)
        assert agents.spend(window=MIDNIGHT + 86_400) == Spend()
        assert agents.spend().queries == 1

    async def test_replayed_record_changes_nothing(self, agents: Agents) -> None:
        """The same offset after a crash sends the same bytes and leaves ledger and sums as they are."""
        (first,) = agents.query(offset=3)
        spend = agents.spend()
        (again,) = agents.query(offset=3)
        assert again == first
        assert agents.spend() == spend

    async def test_same_id_of_another_user_is_another_query(self, agents: Agents) -> None:
        """Query ids belong to their users."""
        agents.query(user_id="u")
        agents.query(user_id="v")
        assert (agents.spend("u").queries, agents.spend("v").queries) == (1, 1)

    async def test_ledger_that_knows_more_than_the_arbiter_stops_the_worker(self, agents: Agents) -> None:
        """Spend contains a query of which no decision is known: state is broken, 74, before anything is sent."""
        agents.journal.put_spend(LANE, SpendKey("u", MIDNIGHT), Spend(queries=1, fence=Fence(query=9)))
        with pytest.raises(WorkerMustStop, match=rf"t\.queries/{LANE}/9, but no decision is known") as caught:
            agents.query(offset=9)
        assert caught.value.code is ExitCode.STATE_BROKEN


class TestWindows:
    """A query belongs to the window of its broker time."""

    async def test_next_window_starts_anew_with_the_rate_remembered(self, agents: Agents) -> None:
        """Money starts at zero; how often the user asks is carried over."""
        agents.query("q1")
        agents.query("q2")
        agents.query("q3", at_ms=START_MS + 86_400_000)
        opened = agents.spend(window=MIDNIGHT + 86_400)
        assert (opened.settled, opened.queries) == (0, 1)
        assert opened.history == History(0.8 * 2, 0.8)

    async def test_feedback_that_comes_back_first_does_not_hide_the_rate(self, agents: Agents) -> None:
        """After a crash feedback is read again before its query and the window before: its window knows the rate."""
        later = START_MS + 86_400_000
        agents.query("q1")
        agents.query("q2", at_ms=later)
        agents.say("q2", cost_usd=0.5, at_ms=later)
        for window in (MIDNIGHT, MIDNIGHT + 86_400):  # of the last batch only `pending` had left
            agents.journal.put_spend(LANE, SpendKey("u", window), None)
        agents.say("q2", cost_usd=0.5, at_ms=later, offset=0)
        agents.query("q1", offset=0)
        agents.query("q2", at_ms=later, offset=1)
        again = agents.spend(window=MIDNIGHT + 86_400)
        assert (again.queries, again.settled, again.history) == (1, 500_000_000, History(0.8, 0.8))

    async def test_last_millisecond_belongs_to_the_window(self, agents: Agents) -> None:
        """A window contains its start and not its end."""
        agents.query(at_ms=START_MS - 1)
        assert agents.spend(window=MIDNIGHT - 86_400).queries == 1

    async def test_record_without_a_time(self, agents: Agents) -> None:
        """A timestamp of -1 is a time before 1970, not a crash."""
        (output,) = agents.query(at_ms=-1)
        assert content(output)["budget"]["window_start"] == "1969-12-31T00:00:00.000Z"


class TestEarlyFeedback:
    """Feedback that waited for this query."""

    async def test_it_is_applied_and_reported_with_the_decision(self, agents: Agents) -> None:
        """Money settles instead of being reserved, the reward is learned, and both are counted."""
        assert agents.say(reward=1.0, cost_usd=0.25) == []
        assert agents.notebook.records == [records.FeedbackPartHandled("record", "parked")]
        (output,) = agents.query()
        assert content(output)["budget"]["settled_usd"] == 0.25
        assert (agents.spend().settled, agents.spend().reserved) == (250_000_000, 0)
        learned = agents.learned("small")
        assert learned is not None
        assert (learned.reward.n, learned.costs_settled) == (1, 1)
        assert agents.notebook.of(records.FeedbackPartHandled)[1:] == [
            records.FeedbackPartHandled("money", "applied"),
            records.FeedbackPartHandled("reward", "applied"),
        ]
        (settled,) = agents.notebook.of(records.MoneySettled)
        (rewarded,) = agents.notebook.of(records.RewardGiven)
        assert (settled.model, settled.nanos) == ("small", 250_000_000)
        assert (rewarded.reward, rewarded.expected) == (1.0, content(output)["expected_reward"])
        assert agents.notebook.of(records.FeedbackArrived) == [records.FeedbackArrived(0.0)]

    async def test_early_failure_is_counted(self, agents: Agents) -> None:
        """A call that failed before its decision was read counts for its model."""
        agents.say(status="timeout")
        agents.query()
        assert agents.notebook.of(records.CallFailed) == [records.CallFailed("small", "timeout")]

    async def test_second_early_rating_is_a_duplicate(self, agents: Agents) -> None:
        """Of two ratings that waited the first counts and the second is counted duplicate."""
        agents.say(reward=1.0)
        agents.say(reward=0.0)
        agents.query()
        parts = [record.outcome for record in agents.notebook.of(records.FeedbackPartHandled)]
        assert parts == ["parked", "parked", "applied", "duplicate"]

    async def test_what_cannot_be_applied_leaves_with_the_decision(self, agents: Agents) -> None:
        """A dead letter per refused record, as it came, again with every replay of the query."""
        agents.say(reward=1.0, model="unheard-of", headers=(("h", b"1"),), at_ms=START_MS - 5)
        decision, letter = agents.query(offset=3)
        assert (decision.topic, code(letter)) == ("t.decisions", "unknown_model")
        headers = dict(letter.headers)
        assert (headers["h"], headers["pilot.source.topic"], headers["pilot.source.offset"]) == (
            b"1",
            b"t.feedback",
            b"0",
        )
        assert headers["pilot.source.timestamp"] == b"%d" % (START_MS - 5)
        assert agents.query(offset=3) == [decision, letter]

    async def test_rejection_refuses_what_waited(self, agents: Agents) -> None:
        """Feedback to a query that is rejected is not_routed."""
        agents.say(reward=1.0)
        agents.without_model("small")
        _, letter = agents.query()
        assert code(letter) == "not_routed"


class TestPreparation:
    """Checks and encoding before the first read."""

    async def test_text_is_encoded_and_an_embedding_is_not(self, agents: Agents) -> None:
        """With both, the embedding is used as it is."""
        agents.query(text="hello")
        assert agents.encoder.texts == []
        event = {"query_id": "q2", "user_id": "u", "text": "hello"}
        record = agents.record(QUERIES, event)
        prepared = agents.route.prepare(record)
        assert isinstance(prepared, asyncio.Future)
        ready = await prepared
        assert isinstance(ready, Prepared)
        assert agents.encoder.texts == ["hello"]
        agents.route.handle(record, ready)
        assert content(agents.journal.batch.outputs[-1])["status"] == "routed"

    async def test_input_tokens_are_estimated_from_the_bytes(self, agents: Agents) -> None:
        """Four bytes a token, rounded up, where the caller does not say."""
        agents.query(text="größe", input_tokens=None)
        held = agents.pending()
        assert held is not None
        assert held.choice is not None
        assert held.choice.input_tokens == 2

    @pytest.mark.parametrize(
        ("event", "place", "expected"),
        [
            (b"", {"key": b"u", "partition": LANE}, "invalid_json"),
            (None, {"key": b"u", "partition": LANE}, "invalid_json"),
            ({"user_id": "u", "embedding": [1.0], "query_id": ""}, {}, "invalid_event"),
            ({"user_id": "u", "query_id": "q"}, {"key": b"v"}, "invalid_event"),
            ({"user_id": "u", "query_id": "q", "text": "t"}, {"key": b"v", "partition": LANE ^ 1}, "invalid_key"),
            ({"user_id": "u", "query_id": "q", "text": "t"}, {"key": None}, "invalid_key"),
            ({"user_id": "u", "query_id": "q", "embedding": [1.0]}, {"partition": LANE ^ 1}, "wrong_partition"),
            ({"user_id": "u", "query_id": "q", "embedding": [1.0]}, {}, "invalid_embedding"),
            ({"user_id": "u", "query_id": "q", "text": "t", "embedding": [0.0] * 384}, {}, "invalid_embedding"),
        ],
    )
    async def test_bad_record_becomes_a_dead_letter(
        self, agents: Agents, event: Any, place: dict[str, Any], expected: str
    ) -> None:
        """The first code that applies, the original value, no state, and the stream goes on."""
        record = agents.record(QUERIES, event, **place)
        (letter,) = agents.handle(record)
        assert (code(letter), letter.value, letter.key) == (expected, record.value, record.key)
        assert (agents.journal.batch.pending, agents.journal.batch.spend) == ({}, {})
        assert agents.notebook.of(records.QueryHandled) == [records.QueryHandled("dead_letter")]
        assert content(agents.query()[0])["status"] == "routed"

    async def test_huge_numbers_are_decided(self, agents: Agents) -> None:
        """The largest token counts and costs that are accepted overflow nothing, in state or on the wire."""
        agents.model("dear", output_usd_per_mtok=1e6, request_usd=1e6)
        for number in range(5):
            agents.query(f"q{number}", user_id="free", input_tokens=10**9, max_output_tokens=10**9, max_cost_usd=1e6)
            agents.say(f"q{number}", user_id="free", cost_usd=1e6, input_tokens=10**9, output_tokens=10**9)
        assert agents.spend("free").settled <= 5 * 10**15
        json.dumps(content(agents.journal.batch.outputs[0]))


async def test_allow_list_of_unknown_models_rejects(agents: Agents) -> None:
    """Only models that are known, enabled and allowed can be chosen."""
    (output,) = agents.query(models=["unheard-of"], embedding=EMBEDDING)
    assert content(output)["reason"] == "no_model"
    assert content(output)["candidates"][0]["excluded"] == "not_allowed"
