"""The route agent's work: a query record in, a decision out, exactly once per query."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from worker import codecs
from worker.core import ledger, lifecycle
from worker.core.arms import Arm
from worker.core.arrivals import carry
from worker.core.batch import Batch
from worker.core.fence import Event, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Choice, Pending
from worker.core.paper import teaches
from worker.core.projection import Projection
from worker.core.router import Router
from worker.core.verdict import Account, FloatArray, History, Request, Verdict
from worker.errors import BadRecord, ExitCode, WorkerMustStop
from worker.events import Query, parse, parse_feedback
from worker.kafka.control import Budgets, Catalog
from worker.money import to_nanos
from worker.observe import records
from worker.observe.records import Observer
from worker.observe.tracing import QueryTrace, QueryTracer
from worker.settings import Settings
from worker.stream import answer, effects
from worker.stream.answer import Window
from worker.stream.batch import Output, SourceRecord
from worker.stream.checks import check_embedding, check_placement
from worker.stream.deadletters import dead_letter
from worker.stream.feedback import core_feedback, report, report_first
from worker.stream.state import SpendKey
from worker.stream.sweep import Sweeper
from worker.stream.tenure import Tenure

FEW_QUERIES = 8  # fewer are decided sooner one by one than weighed together


class TextEncoder(Protocol):
    """Encodes one text off the event loop."""

    async def encode(self, text: str) -> NDArray[np.float32]:
        """The embedding, shape (E,)."""


class Prepared(NamedTuple):
    """A valid query, as the core sees it, and when it was taken up, in seconds since the epoch."""

    query: Query
    request: Request
    taken: float
    trace: QueryTrace | None = None


class _Embedded(NamedTuple):
    """A checked query with its embedding, float64 of shape (E,)."""

    query: Query
    vector: FloatArray


Ready = Prepared | BadRecord
Decide = Callable[[Account], Verdict]


class Moments(NamedTuple):
    """When a query was taken up, when its turn came and when it was decided, in seconds since the epoch."""

    taken: float
    begun: float
    decided: float

    def stages(self, record: SourceRecord, acknowledged: float) -> records.Stages:
        """The latency of a decision that is acknowledged, by where it went."""
        wait = max(0.0, self.taken - record.timestamp / 1000)  # the broker's clock may be ahead of this one
        return records.Stages(wait, self.begun - self.taken, self.decided - self.begun, acknowledged - self.decided)


class RouteHandler:
    """Turns query records into decisions."""

    def __init__(
        self,
        *,
        settings: Settings,
        partitions: int,
        tenure: Tenure,
        sweeper: Sweeper,
        router: Router,
        projection: Projection,
        encoder: TextEncoder,
        catalog: Catalog,
        budgets: Budgets,
        observer: Observer,
        learning_share: float | None = None,
        tracer: QueryTracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._settings = settings
        self._partitions = partitions
        self._tenure = tenure
        self._sweeper = sweeper
        self._router = router
        self._projection = projection
        self._encoder = encoder
        self._catalog = catalog
        self._budgets = budgets
        self._learning_share = learning_share
        self._observer = observer
        self._detailed = settings.decision_detail == "full"
        self._decisions = settings.topic("decisions")
        self._dead_letters = settings.topic("dead-letters")

    def prepare(self, record: SourceRecord) -> Ready | asyncio.Future[Ready]:
        """Decode and check; a text is encoded meanwhile, an embedding is used as it is."""
        return self.prepare_many((record,))[0]

    def prepare_many(self, records: Sequence[SourceRecord]) -> list[Ready | asyncio.Future[Ready]]:
        """`prepare` for a chunk, whose embeddings are projected together."""
        taken = time.time()
        checked = [self._checked(record) for record in records]
        embedded = [(found.query, found.vector) for found in checked if isinstance(found, _Embedded)]
        contexts = iter(self._contexts(embedded))
        prepared: list[Ready | asyncio.Future[Ready]] = []
        for record, found in zip(records, checked, strict=True):
            if isinstance(found, _Embedded):
                request = _request(found.query, next(contexts), record.timestamp)
                prepared.append(Prepared(found.query, request, taken, self._trace(record, found.query)))
            elif isinstance(found, Query):
                work = self._encode(found, record.timestamp, taken, self._trace(record, found))
                prepared.append(asyncio.ensure_future(work))
            else:
                prepared.append(found)
        return prepared

    def handle(self, record: SourceRecord, prepared: Ready) -> None:
        """Decide, or repeat what was decided. Synchronous from the first read to the last write."""
        self.handle_many(((record, prepared),))

    def handle_many(self, ready: Sequence[tuple[SourceRecord, Ready]]) -> None:
        """`handle` for a chunk: its queries are weighed together and decided one after the other."""
        requests = [prepared.request for _, prepared in ready if isinstance(prepared, Prepared)]
        batch = Batch(self._router, requests) if len(requests) >= FEW_QUERIES else None
        index = 0
        for record, prepared in ready:
            if isinstance(prepared, BadRecord):
                self._set_aside(record, prepared)
                continue
            decide = partial(self._router.decide, prepared.request) if batch is None else partial(batch.decide, index)
            self._traced(record, prepared, decide)
            index += 1

    def _traced(self, record: SourceRecord, prepared: Prepared, decide: Decide) -> None:
        trace = prepared.trace
        if trace is None:
            self._answer(record, prepared, decide)
            return
        began = time.time_ns()
        self._answer(record, prepared, decide)
        decided = trace.step("decide", began)
        self._tenure.journal.on_delivered(lambda: trace.end("write", decided))

    def _answer(self, record: SourceRecord, prepared: Prepared, decide: Decide) -> None:
        query, event = prepared.query, Event(Source.QUERY, record.offset)
        journal = self._tenure.journal
        key = codecs.pack_pending_key(query.user_id, query.query_id)
        pending = journal.state.pending.get(record.partition, key) or Pending()
        if pending.decision is not None and pending.offset != record.offset:
            self._sweeper.mention(record.partition, key, event)
            self._repeat(record, pending.decision)
            return
        if pending.decision is None:
            pending = self._decide(record, prepared, decide, pending, event)
        journal.put_pending(record.partition, key, pending)
        self._sweeper.watch(record.partition, key, pending)
        self._spend(record.partition, SpendKey(query.user_id, pending.window, pending.window_s))
        rewarding = teaches(query.query_id, self._learning_share)
        effects.apply(journal, record.partition, query.user_id, pending, event, rewarding=rewarding)
        self._emit(record, pending)

    async def _encode(self, query: Query, timestamp: int, taken: float, trace: QueryTrace | None) -> Prepared:
        began = time.time_ns()
        vector = np.asarray(await self._encoder.encode(query.text or ""), dtype=np.float64)
        if trace is not None:
            trace.step("encode", began)
        (context,) = self._contexts([(query, vector)])
        return Prepared(query, _request(query, context, timestamp), taken, trace)

    def _trace(self, record: SourceRecord, query: Query) -> QueryTrace | None:
        if self._tracer is None:
            return None
        place = (record.topic, record.partition, record.offset)
        return self._tracer.begin(*place, record.headers, (query.query_id, query.user_id))

    def _checked(self, record: SourceRecord) -> Query | _Embedded | BadRecord:
        """A query whose text is still to be encoded, or one with its embedding."""
        self._sweeper.clock.observe(record.timestamp)
        try:
            query = parse(Query, record.value)
            check_placement(record, query, self._partitions)
            if query.embedding is None:
                return query
            return _Embedded(query, check_embedding(query.embedding, self._settings.embedding_dim))
        except BadRecord as bad:
            return bad

    def _contexts(self, embedded: Sequence[tuple[Query, FloatArray]]) -> FloatArray:
        """ψ of each, shape (n, d)."""
        if not embedded:
            return np.empty((0, 0))
        vectors = np.array([vector for _, vector in embedded])
        return self._projection.contexts(
            vectors, [query.text for query, _ in embedded], [query.task for query, _ in embedded]
        )

    def _decide(
        self, record: SourceRecord, prepared: Prepared, decide: Decide, pending: Pending, event: Event
    ) -> Pending:
        begun = time.time()
        query = prepared.query
        window = self._window(record, query.user_id)
        spend = self._spend(record.partition, SpendKey(query.user_id, window.start))
        if spend.fence.contains(event):
            raise WorkerMustStop(
                ExitCode.STATE_BROKEN,
                f"spend contains {record.topic}/{record.partition}/{record.offset}, but no decision is known of it",
            )
        verdict = decide(_account(spend, window, record.timestamp))
        verdict = verdict._replace(candidates=tuple(verdict.candidates))  # they are made when read, and read twice
        early = {parked.value: parse_feedback(parked.value) for parked in pending.parked}
        decided, outcomes = lifecycle.decide(
            pending,
            decision=b"",
            event=event,
            window=window.start,
            choice=self._choice(prepared, verdict),
            timestamp=record.timestamp,
            parse=lambda value: core_feedback(early[value]),
            lookup=self._catalog.arm,
        )
        now = time.time()
        decision = answer.render(
            query, record, verdict, ledger.apply_query(spend, decided, event), window,
            version=self._router.version, now_s=now, detailed=self._detailed,
        )  # fmt: skip
        decided = decided._replace(decision=decision)
        for parked, outcome in zip(pending.parked, outcomes, strict=True):
            report(self._observer, early[parked.value], outcome, decided)
        report_first(self._observer, pending, decided, 0.0)
        if window.limit is None:
            self._observer.observe(records.UnlimitedQuery())
        self._announce(record, prepared, verdict, Moments(prepared.taken, begun, now))
        return decided

    def _window(self, record: SourceRecord, user_id: str) -> Window:
        length, offset = self._settings.budget_window_s, self._settings.budget_window_offset_s
        start = ledger.window_start(record.timestamp / 1000, length, offset)
        return Window(start, length, self._budgets.limit_nanos(user_id))

    def _spend(self, partition: int, key: SpendKey) -> Spend:
        """The user's window; its first query takes over the rate history of the window before.

        After a crash feedback may come back, and open the window, before the queries of the window before do.
        """
        cache = self._tenure.journal.state.spend
        spend = cache.get(partition, key)
        if spend is not None and spend.queries:
            return spend
        length_s = key.length or self._settings.budget_window_s
        before = cache.get(partition, key._replace(window=key.window - length_s))
        history = History() if before is None else carry(before.history, before.queries)
        opened = (spend or Spend())._replace(history=history)
        if opened == spend:
            return opened
        self._tenure.journal.put_spend(partition, key, opened)
        self._sweeper.watch_window(partition, key)
        return opened

    def _choice(self, prepared: Prepared, verdict: Verdict) -> Choice | None:
        if verdict.model is None:
            return None
        arm = self._catalog.arm(verdict.model) or Arm(verdict.model)
        query = prepared.query
        text_tokens = 0 if query.text is None else math.ceil(len(query.text.encode()) / 4)
        return Choice(
            model=arm.model,
            context=prepared.request.context,
            fingerprint=self._projection.fingerprint,
            reservation=verdict.reservation_nanos or 0,
            expected=verdict.estimated_cost_nanos or 0,
            predicted=verdict.predicted_cost_nanos or 0,
            input_tokens=query.input_tokens if query.input_tokens is not None else text_tokens,
            input_usd_per_mtok=arm.input_usd_per_mtok,
            output_usd_per_mtok=arm.output_usd_per_mtok,
            request_usd=arm.request_usd,
            bounded=self._settings.reserve == "worst_case",
        )

    def _emit(self, record: SourceRecord, pending: Pending) -> None:
        journal = self._tenure.journal
        headers = answer.echoed(record.headers)
        journal.emit(Output(self._decisions, record.partition, record.key, pending.decision, headers))
        for entry in pending.refused:
            parked = entry.record
            origin = SourceRecord(
                self._settings.topic("feedback"), record.partition, parked.offset, parked.timestamp,
                parked.key, parked.value, parked.headers,
            )  # fmt: skip
            journal.emit(dead_letter(self._dead_letters, origin, BadRecord(entry.code, entry.message)))
            self._observer.observe(records.DeadLetterSent("feedback", record.partition, parked.offset, entry.code))

    def _repeat(self, record: SourceRecord, decision: bytes) -> None:
        headers = answer.echoed(record.headers)
        self._tenure.journal.emit(Output(self._decisions, record.partition, record.key, decision, headers))
        self._observer.observe(records.QueryHandled("repeated"))

    def _set_aside(self, record: SourceRecord, bad: BadRecord) -> None:
        self._tenure.journal.emit(dead_letter(self._dead_letters, record, bad))
        self._observer.observe(records.DeadLetterSent("queries", record.partition, record.offset, bad.code))
        self._observer.observe(records.QueryHandled("dead_letter"))

    def _announce(self, record: SourceRecord, prepared: Prepared, verdict: Verdict, moments: Moments) -> None:
        """Count the decision once it is acknowledged."""
        beside = answer.compare(verdict)
        status: Literal["routed", "rejected"] = "rejected" if verdict.model is None else "routed"
        if prepared.trace is not None:
            prepared.trace.decided(verdict.model, status)

        def acknowledged() -> None:
            self._observer.observe(records.QueryHandled(status))
            self._observer.observe(
                records.DecisionSent(
                    policy=verdict.policy,
                    status=status,
                    model=verdict.model,
                    reason=verdict.reason,
                    stages=moments.stages(record, time.time()),
                    estimated_nanos=verdict.estimated_cost_nanos,
                    baseline_nanos=beside.baseline_nanos,
                    expected_reward=verdict.expected_reward,
                    baseline_reward=beside.baseline_reward,
                    uncertainty=verdict.uncertainty,
                    exploring=beside.exploring,
                    query_id=prepared.query.query_id,
                    user_id=prepared.query.user_id,
                )
            )

        self._tenure.journal.on_delivered(acknowledged)


def _request(query: Query, context: FloatArray, timestamp_ms: int) -> Request:
    return Request(
        query_id=query.query_id,
        user_id=query.user_id,
        context=context,
        input_tokens=query.input_tokens,
        text_bytes=None if query.text is None else len(query.text.encode()),
        max_output_tokens=query.max_output_tokens,
        models=None if query.models is None else frozenset(query.models),
        requires=frozenset(query.requires or ()),
        max_cost_nanos=None if query.max_cost_usd is None else to_nanos(query.max_cost_usd),
        at_s=timestamp_ms / 1000,
    )


def _account(spend: Spend, window: Window, timestamp_ms: int) -> Account:
    elapsed = (timestamp_ms / 1000 - window.start) / window.length
    return Account(
        limit=window.limit,
        settled=spend.settled,
        reserved=spend.reserved,
        expected=spend.expected,
        queries=spend.queries,
        elapsed=min(max(elapsed, 0.0), 1.0),
        history=spend.history,
    )
