"""Expiry by broker time, through the lane: decisions, early feedback, windows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.core.lives import choice
from tests.unit.stream.doubles import FEEDBACK, PARTITIONS, QUERIES, Notebook
from worker import codecs
from worker.core.fence import Event, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Money, Parked, Pending
from worker.kafka.partitioning import partition_of
from worker.observe.records import DeadLetterSent
from worker.settings import Settings
from worker.stream import sweep
from worker.stream.batch import Journal, Output
from worker.stream.progress import CURRENT_S
from worker.stream.state import SpendKey, State
from worker.stream.sweep import BrokerClock, Sweeper
from worker.stream.tables import Tables

TTL_S, PARK_S, WINDOW_S = 3_600, 300, 600
NOW_MS = 19_675 * 86_400_000  # a midnight, where windows start
KEY = codecs.pack_pending_key("user", "q")
LANE = partition_of(b"user", PARTITIONS)


class Broom:
    """A sweeper over a real journal and tables, with a broker that has committed everything, and two clocks."""

    def __init__(self, settings: Settings, journal: Journal, tables: Tables, clock: Any, notebook: Notebook) -> None:
        self.journal, self.tables, self.clock, self.notebook = journal, tables, clock, notebook
        self.committed: dict[str, int | None] = {QUERIES: 10**6, FEEDBACK: 10**6}
        self.tenure: Any = SimpleNamespace(journal=journal, began=[])
        self.sweeper = Sweeper(
            settings=settings, partitions=PARTITIONS, tenure=self.tenure, tables=tables,
            committed=lambda topic, _: self.committed[topic], clock=BrokerClock(), observer=notebook,
        )  # fmt: skip
        self.sweeper.clock.observe(NOW_MS)

    def put(self, pending: Pending, key: bytes = KEY) -> None:
        """What a handler does with a record."""
        self.journal.put_pending(LANE, key, pending)
        self.sweeper.watch(LANE, key, pending)
        self.deliver()

    def get(self, key: bytes = KEY) -> Pending | None:
        return self.journal.state.pending.get(LANE, key)

    def deliver(self) -> list[Output]:
        """Acknowledge the current batch: store it, call back, return what left."""
        batch = self.journal.turn()
        for stage in self.tables.plan(batch, self.journal.state):
            for (topic, partition), changes in stage.items():
                self.tables.store(changes, SimpleNamespace(topic=topic, partition=partition, offset=0))
        for call in batch.delivered:
            call()
        return batch.outputs

    def sweep_after(self, seconds: float) -> bool:
        self.clock.now += seconds
        return self.sweeper.sweep()


@pytest.fixture
async def broom(
    configured: Settings, journal: Journal, tables: Tables, clock: Callable[..., Any], notebook: Notebook
) -> Broom:
    times = {"decision_ttl_s": TTL_S, "park_s": PARK_S, "budget_window_s": WINDOW_S}
    return Broom(configured.model_copy(update=times), journal, tables, clock(sweep), notebook)


def decided(changed_ms: int = NOW_MS, **changes: Any) -> Pending:
    return Pending(**{"decision": b"{}", "offset": 5, "choice": choice(), "changed_ms": changed_ms, **changes})


def early(*offsets: int, first_ms: int = NOW_MS, apart_ms: int = 0) -> Pending:
    records = tuple(
        Parked(offset, first_ms + number * apart_ms, b"user", b"%d" % offset) for number, offset in enumerate(offsets)
    )
    return Pending(parked=records, changed_ms=records[-1].timestamp)


class TestIndex:
    """What is due much later is not held in memory, and yet let go in time."""

    LONG_S = 86_400

    @pytest.fixture
    async def broom(
        self, configured: Settings, journal: Journal, tables: Tables, clock: Callable[..., Any], notebook: Notebook
    ) -> Broom:
        times = {"decision_ttl_s": self.LONG_S, "park_s": PARK_S}
        return Broom(configured.model_copy(update=times), journal, tables, clock(sweep), notebook)

    async def test_later_ones_are_found_in_the_store(self, broom: Broom) -> None:
        """A decision that is remembered for a day is not in the index at first, and goes when its day is over."""
        broom.put(decided())
        assert (broom.sweeper._due, broom.sweeper._watched) == ([], set())
        for _ in range(23):
            assert not broom.sweep_after(3_600)
        assert not broom.sweep_after(3_599)
        assert broom.sweeper._watched == {KEY}
        assert broom.sweep_after(2)
        assert broom.get() is None

    async def test_first_look_may_not_know_the_time(self, broom: Broom) -> None:
        """A new worker knows the time only after it has seen newer records: it looks again at once."""
        old, new = decided(NOW_MS - (self.LONG_S - 600) * 1000), decided()
        broom.put(old)
        broom.put(new, codecs.pack_pending_key("user", "q2"))
        broom.sweeper.clock = BrokerClock()
        broom.sweeper.begin()
        assert not broom.sweep_after(1)
        assert not broom.sweep_after(1)
        assert broom.sweeper._watched == {KEY}
        assert broom.sweep_after(600)
        assert broom.get() is None


class TestDecisions:
    """A decision is forgotten some time after its last change."""

    async def test_tombstone_after_the_time_to_live(self, broom: Broom) -> None:
        """Not before; then a tombstone and nothing else: what was reserved stays in its window."""
        broom.put(decided())
        assert not broom.sweep_after(TTL_S - 1)
        assert broom.get() is not None
        assert broom.sweep_after(2)
        assert broom.get() is None
        assert (list(broom.journal.batch.pending), broom.journal.batch.spend, broom.deliver()) == ([KEY], {}, [])

    async def test_a_change_renews_it(self, broom: Broom) -> None:
        """Feedback in between moves the end."""
        broom.put(decided())
        broom.put(decided(NOW_MS + 1_000_000))
        broom.sweep_after(TTL_S - 1)
        assert broom.get() is not None
        broom.sweep_after(2)
        assert broom.get() is None

    @pytest.mark.parametrize("topic", [QUERIES, FEEDBACK])
    async def test_not_while_its_events_may_be_replayed(self, broom: Broom, topic: str) -> None:
        """A record that an uncommitted event depends on stays: the replay needs it; later it goes."""
        broom.committed[topic] = 5
        money = Money(1, codecs.Event(codecs.Source.FEEDBACK, 5), "small")
        broom.put(decided(money=money))
        broom.sweep_after(TTL_S + 1)
        assert broom.get() is not None
        broom.committed[topic] = 6
        broom.sweep_after(10)
        assert broom.get() is None

    @pytest.mark.parametrize(("topic", "source"), [(QUERIES, Source.QUERY), (FEEDBACK, Source.FEEDBACK)])
    async def test_not_while_a_repetition_may_be_replayed(self, broom: Broom, topic: str, source: Source) -> None:
        """A repeated query or feedback that changed nothing must find the record again after a crash."""
        broom.put(decided())
        broom.sweeper.mention(LANE, KEY, Event(source, 40))
        broom.sweeper.mention(LANE, b"other", Event(source, 41))
        broom.committed[topic] = 40
        broom.sweep_after(TTL_S + 1)
        assert broom.get() is not None
        broom.committed[topic] = 41
        broom.sweep_after(10)
        assert broom.get() is None
        assert broom.sweeper._mentioned[source, LANE] == {b"other": 41}

    @pytest.mark.parametrize("topic", [QUERIES, FEEDBACK])
    async def test_not_in_a_lane_that_lags(self, broom: Broom, topic: str) -> None:
        """After a long stop the backlog is processed before anything expires by the time of newer records."""
        broom.put(decided())
        broom.committed[topic] = None
        broom.sweep_after(10 * TTL_S)
        assert broom.get() is not None
        broom.committed[topic] = 10**6
        broom.sweep_after(10)
        assert broom.get() is None

    async def test_idle_worker_expires_too(self, broom: Broom) -> None:
        """Time goes on without records: the broker's last time plus what has passed since."""
        broom.put(decided())
        broom.clock.now += 10 * TTL_S
        assert broom.sweeper.sweep()

    async def test_recovered_decisions_expire(self, broom: Broom) -> None:
        """A new owner finds what the table holds and lets it go in time, although no event mentions it."""
        broom.put(decided())
        broom.sweeper.begin()
        broom.sweep_after(TTL_S + 1)
        assert broom.get() is None

    async def test_new_assignment_forgets_the_last_one(self, broom: Broom) -> None:
        """Keys of partitions that went elsewhere are neither read nor written any more."""
        broom.sweeper.watch(LANE, b"gone\0q", decided())
        (begin,) = broom.tenure.began
        begin()
        assert not broom.sweep_after(TTL_S + 1)

    async def test_many_at_once_are_let_go_in_helpings(self, broom: Broom) -> None:
        """One sweep holds up the agents for so many keys only, and says that more are due."""
        keys = [codecs.pack_pending_key("user", f"q{number}") for number in range(sweep._PER_SWEEP + 3)]
        for key in keys:
            broom.journal.put_pending(LANE, key, decided())
            broom.sweeper.watch(LANE, key, decided())
        broom.deliver()
        broom.sweep_after(TTL_S + 1)
        assert broom.sweeper.behind
        assert len(broom.journal.batch.pending) == sweep._PER_SWEEP
        broom.deliver()
        broom.sweep_after(0)
        assert not broom.sweeper.behind
        assert all(broom.get(key) is None for key in keys)


class TestEarlyFeedback:
    """Feedback whose query never comes."""

    def letters(self, outputs: list[Output]) -> list[tuple[bytes | None, str]]:
        assert all(output.topic == "t.dead-letters" for output in outputs)
        return [(output.value, dict(output.headers)["pilot.error.code"].decode()) for output in outputs]  # type: ignore[union-attr]

    async def test_dead_letter_then_tombstone(self, broom: Broom) -> None:
        """It is refused in state, its dead letter leaves, and only after the acknowledgement it is forgotten."""
        broom.put(early(3))
        broom.sweep_after(PARK_S + 1)
        refused = broom.get()
        assert refused is not None
        assert [entry.record.offset for entry in refused.refused] == [3]
        assert self.letters(broom.deliver()) == [(b"3", "unknown_query")]
        broom.sweep_after(10)
        assert broom.get() is None
        assert broom.notebook.of(DeadLetterSent) == [DeadLetterSent("feedback", LANE, 3, "unknown_query")]  # type: ignore[arg-type]

    async def test_no_tombstone_before_the_acknowledgement(self, broom: Broom) -> None:
        """While the dead letter is under way the record stays, and the letter is sent again rather than lost."""
        broom.put(early(3))
        broom.sweep_after(PARK_S + 1)
        under_way = broom.journal.turn()
        broom.sweep_after(10)
        assert broom.get() is not None
        assert self.letters(under_way.outputs + broom.deliver()) == [(b"3", "unknown_query")] * 2
        broom.sweep_after(10)
        assert broom.get() is None

    async def test_each_record_expires_once_by_its_own_time(self, broom: Broom) -> None:
        """Eight records a minute apart are eight dead letters, not one more for each that came before."""
        broom.put(early(*range(8), first_ms=NOW_MS - 7 * 60_000, apart_ms=60_000))
        letters: list[tuple[bytes | None, str]] = []
        for _ in range(200):
            broom.sweep_after(5)
            letters += self.letters(broom.deliver())
        assert letters == [(b"%d" % offset, "unknown_query") for offset in range(8)]
        assert broom.get() is None

    async def test_endless_early_feedback_does_not_grow(self, broom: Broom) -> None:
        """A caller who reports about an unknown query for hours leaves a bounded record and one letter each."""
        letters: list[tuple[bytes | None, str]] = []
        parked = early(0)
        broom.put(parked)
        for offset in range(1, 200):
            broom.sweep_after(60)
            letters += self.letters(broom.deliver())
            held = broom.get() or Pending()
            record = Parked(offset, broom.sweeper.clock.now_ms(), b"user", b"%d" % offset)
            waiting = (*held.parked, record)
            broom.put(Pending(parked=waiting, refused=held.refused, changed_ms=record.timestamp))
            assert len(waiting) + len(held.refused) < 12
        assert [value for value, _ in letters] == [b"%d" % offset for offset in range(len(letters))]

    async def test_told_refusal_stays_while_it_may_be_replayed(self, broom: Broom) -> None:
        """Until its feedback is committed the refusal must be found by a replay."""
        broom.committed[FEEDBACK] = 3
        broom.put(early(3))
        broom.sweep_after(PARK_S + 1)
        broom.deliver()
        broom.sweep_after(10)
        held = broom.get()
        assert held is not None
        assert [entry.record.offset for entry in held.refused] == [3]
        assert broom.deliver() == []
        broom.committed[FEEDBACK] = 4
        broom.sweep_after(10)
        assert broom.get() is None

    async def test_crowd_stays_refused_while_it_may_be_replayed(self, broom: Broom) -> None:
        """What was crowded out is refused by its range; the record stays until all of that is committed."""
        broom.committed[FEEDBACK] = 20
        broom.put(early(3)._replace(overflow=(11, 20)))
        broom.sweep_after(PARK_S + 1)
        broom.deliver()
        broom.sweep_after(10)
        held = broom.get()
        assert held is not None
        assert (held.parked, held.refused, held.overflow) == ((), (), (11, 20))
        broom.committed[FEEDBACK] = 21
        broom.sweep_after(10)
        assert broom.get() is None

    async def test_query_in_time_keeps_it(self, broom: Broom) -> None:
        """Feedback whose query came is part of a decision and lives as long as that."""
        broom.put(early(3))
        broom.put(decided())
        broom.sweep_after(PARK_S + 1)
        assert broom.get() == decided()
        assert broom.deliver() == []

    async def test_query_after_the_expiry_leaves_nothing_behind(self, broom: Broom) -> None:
        """What was told of a key is forgotten with it, whichever way it goes."""
        broom.put(early(3))
        broom.sweep_after(PARK_S + 1)
        broom.deliver()
        assert broom.sweeper._told == {KEY: 3}
        broom.put(decided())
        broom.sweep_after(TTL_S + 1)
        assert (broom.get(), broom.sweeper._told) == (None, {})

    async def test_dead_letter_names_the_feedback_as_it_came(self, broom: Broom) -> None:
        """Topic, place and broker time of the parked record are those of its arrival."""
        broom.put(Pending(parked=(Parked(3, NOW_MS, b"user", b"raw", (("trace", None),)),), changed_ms=NOW_MS))
        broom.sweep_after(PARK_S + 1)
        (letter,) = broom.deliver()
        headers = dict(letter.headers)
        assert (letter.key, letter.value, headers["trace"]) == (b"user", b"raw", None)
        assert [headers[f"pilot.source.{name}"] for name in ("topic", "partition", "offset", "timestamp")] == [
            b"t.feedback", b"%d" % LANE, b"3", b"%d" % NOW_MS,
        ]  # fmt: skip


class TestWindows:
    """Windows are dropped when no decision of them can be remembered."""

    START = NOW_MS // 1000

    async def test_window_is_dropped_after_its_decisions(self, broom: Broom) -> None:
        """A closed window stays for the time to live after its end; then a tombstone."""
        key = SpendKey("user", self.START)
        broom.journal.put_spend(LANE, key, Spend(settled=1))
        broom.sweeper.watch_window(LANE, key)
        broom.deliver()
        assert not broom.sweep_after(WINDOW_S + TTL_S - 1)
        assert broom.sweep_after(2)
        assert broom.journal.state.spend.get(LANE, key) is None
        broom.deliver()
        assert broom.tables.load_spend(LANE, key) is None

    async def test_not_in_a_lane_that_lags(self, broom: Broom) -> None:
        """A window whose queries still lie in the backlog keeps its money."""
        key = SpendKey("user", self.START)
        broom.journal.put_spend(LANE, key, Spend(settled=1))
        broom.sweeper.watch_window(LANE, key)
        broom.committed[QUERIES] = None
        broom.sweep_after(100 * TTL_S)
        assert broom.journal.state.spend.get(LANE, key) == Spend(settled=1)

    async def test_window_lasts_as_long_as_the_next_one(
        self, configured: Settings, journal: Journal, tables: Tables, clock: Callable[..., Any], notebook: Notebook
    ) -> None:
        """However short decisions live, a query read at the end of the next window, or soon after, finds the rate."""
        short = configured.model_copy(update={"decision_ttl_s": 1.0, "budget_window_s": WINDOW_S})
        broom = Broom(short, journal, tables, clock(sweep), notebook)
        broom.sweeper.watch_window(LANE, SpendKey("user", self.START))
        broom.sweep_after(2 * WINDOW_S + CURRENT_S - 1)
        assert broom.journal.batch.spend == {}
        broom.sweep_after(2)
        assert broom.journal.batch.spend == {SpendKey("user", self.START): LANE}

    async def test_window_of_another_length_lasts_as_long_as_its_own_decisions(self, broom: Broom) -> None:
        """After the length was shortened, an old long window keeps the money of decisions made near its end."""
        key = SpendKey("user", self.START, length=10 * WINDOW_S)
        broom.sweeper.watch_window(LANE, key)
        broom.sweep_after(10 * WINDOW_S + TTL_S - 1)
        assert broom.journal.batch.spend == {}
        broom.sweep_after(2)
        assert broom.journal.batch.spend == {key: LANE}

    async def test_recovered_windows_are_dropped_too(self, broom: Broom) -> None:
        """A new owner drops the windows that it finds in the table."""
        key = SpendKey("user", self.START)
        broom.journal.put_spend(LANE, key, Spend(settled=1))
        broom.deliver()
        broom.sweeper.begin()
        broom.sweep_after(WINDOW_S + TTL_S + 1)
        assert broom.journal.batch.spend == {key: LANE}

    async def test_users_of_a_window(self, broom: Broom) -> None:
        """Those whose window of the present length begins then."""
        for user, start, length in (("u", 0, 0), ("v", 0, 0), ("old", 0, 60), ("later", 1, 0)):
            broom.sweeper.watch_window(LANE, SpendKey(user, self.START + start, length))
        assert [key.user_id for key in broom.sweeper.users_of(self.START)] == ["u", "v"]
        assert broom.sweeper.users_of(self.START - 1) == {}

    async def test_dropped_windows_are_forgotten(self, broom: Broom) -> None:
        """What is dropped takes no memory, in helpings as for decisions."""
        for number in range(sweep._PER_SWEEP + 3):
            broom.sweeper.watch_window(LANE, SpendKey(f"u{number}", self.START))
        broom.sweep_after(WINDOW_S + TTL_S + 1)
        assert broom.sweeper.behind
        broom.sweep_after(0)
        assert (broom.sweeper.behind, dict(broom.sweeper._windows)) == (False, {})


def test_broker_clock_never_goes_back(clock: Callable[..., Any]) -> None:
    """The largest time seen counts, plus what has passed since, and none that was on its way for long; 0 before any."""
    moved, broker = clock(sweep), BrokerClock()
    assert broker.now_ms() == 0
    broker.observe(5_000)
    moved.now += 2
    for late in (4_000, 6_000, -1):
        broker.observe(late)
        assert broker.now_ms() == 7_000
    broker.observe(7_500)
    assert broker.now_ms() == 7_500


async def test_sweep_before_any_broker_time(state: State, broom: Broom) -> None:
    """A worker that has seen no record yet lets nothing go."""
    broom.sweeper.clock = BrokerClock()
    assert not broom.sweep_after(10**6)
    assert len(state.pending) == 0
