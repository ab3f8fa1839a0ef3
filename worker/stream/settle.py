"""The settle agent's work: join feedback with its decision, settle money, learn."""

from __future__ import annotations

from collections.abc import Sequence

from worker import codecs
from worker.core import lifecycle
from worker.core.fence import Event, Source
from worker.core.lifecycle import Parked, Pending
from worker.core.paper import teaches
from worker.errors import BadRecord, DeadLetterCode, ExitCode, WorkerMustStop
from worker.events import Feedback as FeedbackEvent
from worker.events import parse_feedback
from worker.kafka.control import Catalog
from worker.observe import records
from worker.observe.records import Observer
from worker.settings import Settings
from worker.stream import effects
from worker.stream.batch import SourceRecord
from worker.stream.checks import check_headers, check_placement
from worker.stream.deadletters import dead_letter
from worker.stream.feedback import core_feedback, report, report_first
from worker.stream.state import SpendKey
from worker.stream.sweep import Sweeper
from worker.stream.tenure import Tenure


class SettleHandler:
    """Turns feedback records into settled money and learned rewards."""

    def __init__(
        self,
        *,
        settings: Settings,
        partitions: int,
        tenure: Tenure,
        sweeper: Sweeper,
        catalog: Catalog,
        observer: Observer,
        learning_share: float | None = None,
    ) -> None:
        self._partitions = partitions
        self._tenure = tenure
        self._sweeper = sweeper
        self._catalog = catalog
        self._learning_share = learning_share
        self._observer = observer
        self._dead_letters = settings.topic("dead-letters")

    def prepare_many(self, records: Sequence[SourceRecord]) -> list[FeedbackEvent | BadRecord]:
        """`prepare` for a chunk."""
        return [self.prepare(record) for record in records]

    def handle_many(self, ready: Sequence[tuple[SourceRecord, FeedbackEvent | BadRecord]]) -> None:
        """`handle` for a chunk, one after the other."""
        for record, prepared in ready:
            self.handle(record, prepared)

    def prepare(self, record: SourceRecord) -> FeedbackEvent | BadRecord:
        """Decode and check."""
        self._sweeper.clock.observe(record.timestamp)
        try:
            feedback = parse_feedback(record.value)
            check_headers(record)
            check_placement(record, feedback, self._partitions)
        except BadRecord as bad:
            return bad
        return feedback

    def handle(self, record: SourceRecord, prepared: FeedbackEvent | BadRecord) -> None:
        """Apply, park or set aside. Synchronous from the first read to the last write."""
        if isinstance(prepared, BadRecord):
            self._set_aside(record, prepared)
            return
        journal, feedback = self._tenure.journal, core_feedback(prepared)
        key = codecs.pack_pending_key(prepared.user_id, prepared.query_id)
        before = journal.state.pending.get(record.partition, key) or Pending()
        if before.decision is None:
            after, outcome = lifecycle.park(before, _parked(record), feedback)
        else:
            event = Event(Source.FEEDBACK, record.offset)
            after, outcome = lifecycle.feed(before, feedback, event, record.timestamp, self._catalog.arm)
            self._check_fence(record, before, after, prepared.user_id)
            rewarding = teaches(prepared.query_id, self._learning_share)
            effects.apply(journal, record.partition, prepared.user_id, after, event, rewarding=rewarding)
            # Late money may open a window again that was dropped already.
            self._sweeper.watch_window(record.partition, SpendKey(prepared.user_id, after.window, after.window_s))
        if after is not before:
            journal.put_pending(record.partition, key, after)
            self._sweeper.watch(record.partition, key, after)
        elif after.decision is not None:
            self._sweeper.mention(record.partition, key, Event(Source.FEEDBACK, record.offset))
        report(self._observer, prepared, outcome, after)
        if before.decision is not None:
            report_first(self._observer, before, after, (record.timestamp - before.changed_ms) / 1000)
        if outcome.dead_letter is not None:
            self._emit_dead_letter(record, BadRecord(*outcome.dead_letter))

    def _check_fence(self, record: SourceRecord, before: Pending, after: Pending, user_id: str) -> None:
        """Money that is new to the arbiter cannot be in the ledger already."""
        if after.money is before.money:
            return
        spend = self._tenure.journal.state.spend.get(record.partition, SpendKey(user_id, after.window, after.window_s))
        if spend is not None and spend.fence.contains(Event(Source.FEEDBACK, record.offset)):
            raise WorkerMustStop(
                ExitCode.STATE_BROKEN,
                f"spend contains {record.topic}/{record.partition}/{record.offset}, but its query does not know it",
            )

    def _set_aside(self, record: SourceRecord, bad: BadRecord) -> None:
        self._emit_dead_letter(record, bad)
        self._observer.observe(records.FeedbackPartHandled("record", "dead_letter"))

    def _emit_dead_letter(self, record: SourceRecord, bad: BadRecord) -> None:
        self._tenure.journal.emit(dead_letter(self._dead_letters, record, bad))
        code: DeadLetterCode = bad.code
        self._observer.observe(records.DeadLetterSent("feedback", record.partition, record.offset, code))


def _parked(record: SourceRecord) -> Parked:
    return Parked(record.offset, record.timestamp, record.key, record.value or b"", record.headers)
