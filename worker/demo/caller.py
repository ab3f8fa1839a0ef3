"""The caller's side, in plain Kafka and JSON: asks, reads decisions, runs the model, reports back.

Nothing here uses the worker's own code for events: it is what a program in any language
does that only knows the topics. Running a model is looking up its recorded reward and charge.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.demo import faults
from worker.demo.faults import Fault
from worker.demo.plan import Plan, PlannedQuery, best_model
from worker.demo.tally import Answer, Tally
from worker.demo.wire import Wire

HEADSTART_S = 0.5  # by how much early feedback comes before its query
REPEAT_AFTER_S = 1.5
RATING_AFTER_S = 1.0  # between the bill and the rating, when they come apart
FAULT_EVERY_S = 0.7
ANSWER_TIMEOUT_S = 60.0  # after the last query
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Script:
    """What the caller has in hand: `embeddings` by row, `pinned_model` for queries whose model it fixes."""

    plan: Plan
    embeddings: Mapping[int, Sequence[float]]
    pinned_model: str


async def play(wire: Wire, script: Script, tally: Tally, settle_s: float) -> None:
    """Play the plan from now on, then wait for what is outstanding: decisions, feedback, dead letters.

    `settle_s` bounds the wait for dead letters after the last feedback has left.
    """
    async with asyncio.TaskGroup() as group:
        caller = _Caller(wire, script, tally, group)
        readers = [group.create_task(caller.read_decisions()), group.create_task(caller.read_dead_letters())]
        await caller.ask_everything()
        await caller.wait_for_the_rest(settle_s)
        for reader in readers:
            reader.cancel()


class _Caller:
    def __init__(self, wire: Wire, script: Script, tally: Tally, group: asyncio.TaskGroup) -> None:
        self._wire, self._script, self._tally, self._group = wire, script, tally, group
        self._planned = {query.query_id: query for query in script.plan.queries}
        self._best = best_model(tally.dataset)
        self._busy = 0

    async def ask_everything(self) -> None:
        self._spawn(self._send_unusable())
        start = time.monotonic()
        for query in self._script.plan.queries:
            await asyncio.sleep(max(0.0, start + query.at_s - time.monotonic()))
            if query.pinned:
                self._spawn(self._report_then_ask(query))
            else:
                await self._ask(query)

    async def wait_for_the_rest(self, settle_s: float) -> None:
        tally = self._tally
        await _until(lambda: len(tally.answers) == len(self._planned) and not self._busy, ANSWER_TIMEOUT_S)
        await _until(lambda: tally.repeats >= tally.sent["repeated queries"], ANSWER_TIMEOUT_S)
        await _until(lambda: len(tally.letters) >= tally.expected_dead.total(), settle_s)

    async def read_decisions(self) -> None:
        async for record in self._wire.read("decisions"):
            self._receive(record.value, time.time() * 1000)

    async def read_dead_letters(self) -> None:
        async for record in self._wire.read("dead-letters"):
            headers = {name: content.decode() for name, content in record.headers}
            source = tuple(headers[f"pilot.source.{part}"] for part in ("topic", "partition", "offset"))
            self._tally.set_aside(source, headers["pilot.error.code"])

    def _receive(self, value: bytes, now_ms: float) -> None:
        decision = json.loads(value)
        query = self._planned.get(decision["query_id"])
        if query is None:
            return
        if query.query_id in self._tally.answers:
            self._tally.repeated(query.query_id, value)
            return
        answer = self._run_model(query, decision, value, now_ms)
        self._tally.answered(answer, self._best)
        self._tally.policy = decision["policy"]
        self._spawn(self._report(answer) if answer.model else self._report_rejected(query))

    def _run_model(self, query: PlannedQuery, decision: dict[str, Any], value: bytes, now_ms: float) -> Answer:
        model = decision["model"]
        outcome = self._outcome(query, model) if model else {"reward": 0.0, "cost_usd": 0.0}
        return Answer(query, model, decision["reason"], now_ms, outcome["reward"], outcome["cost_usd"], value)

    def _outcome(self, query: PlannedQuery, model: str) -> dict[str, float]:
        column, scores = self._tally.dataset.names.index(model), self._tally.dataset.stream
        return {"reward": float(scores.rewards[query.row, column]), "cost_usd": float(scores.costs[query.row, column])}

    async def _ask(self, query: PlannedQuery) -> None:
        value = self._query_value(query)
        sent = await self._wire.queue("queries", query.user_id.encode(), value)
        self._tally.sent["queries"] += 1
        self._spawn(self._note_timestamp(query, sent))
        if query.repeated:
            self._spawn(self._ask_again(query, value))

    async def _note_timestamp(self, query: PlannedQuery, sent: asyncio.Future[Any]) -> None:
        self._tally.asked_ms[query.query_id] = float((await sent).timestamp)

    async def _ask_again(self, query: PlannedQuery, value: bytes) -> None:
        await asyncio.sleep(REPEAT_AFTER_S)
        await self._wire.send("queries", query.user_id.encode(), value)
        self._tally.sent["repeated queries"] += 1

    async def _report_then_ask(self, query: PlannedQuery) -> None:
        await self._send_feedback(query, self._outcome(query, self._script.pinned_model))
        self._tally.sent["early feedback"] += 1
        await asyncio.sleep(HEADSTART_S)
        await self._ask(query)

    def _query_value(self, query: PlannedQuery) -> bytes:
        value: dict[str, Any] = {"query_id": query.query_id, "user_id": query.user_id}
        if query.embedded:
            value["embedding"] = self._script.embeddings[query.row]
        else:
            value["text"] = self._tally.dataset.stream.prompts[query.row]
        if query.pinned:
            value["models"] = [self._script.pinned_model]
        return json.dumps(value).encode()

    async def _report(self, answer: Answer) -> None:
        query = answer.query
        if query.pinned or answer.model is None:  # reported before it was asked
            return
        await asyncio.sleep(query.delay_s)
        if not self._tally.expected_dead["unknown_model"]:
            await self._send_fault(faults.unknown_model(query.query_id, query.user_id))
        outcome: dict[str, Any] = self._outcome(query, answer.model)
        if query.in_parts:
            await self._send_feedback(query, {"cost_usd": outcome.pop("cost_usd")})
            await asyncio.sleep(RATING_AFTER_S)
        await self._send_feedback(query, {**outcome, "source": "judge"})
        if query.feedback_repeated:
            await self._send_feedback(query, {**outcome, "source": "judge"})
            self._tally.sent["repeated feedback"] += 1

    async def _report_rejected(self, query: PlannedQuery) -> None:
        if query.pinned:  # its feedback was there first, and there is no model it could be about
            self._tally.expected_dead["not_routed"] += 1
        elif not self._tally.expected_dead["not_routed"]:
            await self._send_fault(faults.not_routed(query.query_id, query.user_id))

    async def _send_feedback(self, query: PlannedQuery, outcome: dict[str, Any]) -> None:
        value = {"query_id": query.query_id, "user_id": query.user_id, **outcome}
        await self._wire.send("feedback", query.user_id.encode(), json.dumps(value).encode())
        self._tally.sent["feedback"] += 1

    async def _send_unusable(self) -> None:
        for fault in faults.unusable(self._script.plan.queries[0].user_id):
            await self._send_fault(fault)
            await asyncio.sleep(FAULT_EVERY_S)

    async def _send_fault(self, fault: Fault) -> None:
        if not fault.misplaced:
            self._tally.expected_dead[fault.code.value] += 1  # before the wait: it is also the mark of "sent one"
            await self._wire.send(fault.topic, fault.key, fault.value)
        elif await self._wire.misplace(fault.topic, fault.key, fault.value):
            self._tally.expected_dead[fault.code.value] += 1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._busy += 1
        self._group.create_task(work).add_done_callback(self._finished)

    def _finished(self, _task: asyncio.Task[None]) -> None:
        self._busy -= 1


async def _until(reached: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached() and time.monotonic() < deadline:  # noqa: ASYNC110 - several counters, no single event
        await asyncio.sleep(POLL_S)
