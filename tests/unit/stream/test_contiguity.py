"""Contiguity: the order of the fetcher, holes, duplicates, and where to commit. With aiokafka's own records."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from tests.unit.stream.doubles import FEEDBACK, QUERIES, assignment, position
from worker.stream import contiguity
from worker.stream.contiguity import Admission, SourcePosition

TP = TopicPartition(QUERIES, 0)
UNCOMMITTED = 0


def record_batch(*offsets: int) -> bytes:
    """A record batch as the broker keeps it, after compaction or expiry left only these offsets."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=10_000,
    )  # fmt: skip
    for offset in offsets:
        assert builder.append(offset, timestamp=1_000, key=b"user", value=b"{}", headers=[])
    return bytes(builder.build())


def fetched(owner: Assignment, start: int, *batches: tuple[int, ...], tp: TopicPartition = TP) -> FetchResult:
    """What the fetcher holds after an answer of the broker, with the position at `start`."""
    state = owner.state_value(tp)
    if state._position is None:
        state.reset_to(start)
    raw = b"".join(record_batch(*batch) for batch in batches)
    records = PartitionRecords(tp, MemoryRecords(raw), [], start, None, None, True, UNCOMMITTED)
    return FetchResult(tp, assignment=owner, partition_records=records, backoff=0)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contiguity, "_sources", contiguity._sources)
    monkeypatch.setattr(FetchResult, "getall", FetchResult.getall)
    contiguity.install(frozenset({QUERIES, FEEDBACK}))


def chain(records: list[Any]) -> list[tuple[int, int]]:
    return [(record.previous_offset, record.offset) for record in records]


class TestChain:
    """Each record is given the offset of the record handed out before it."""

    async def test_first_records_follow_the_position(self) -> None:
        """The first record of an assignment follows what was committed."""
        records = fetched(assignment(), 5, (5, 6, 7)).getall()
        assert chain(records) == [(4, 5), (5, 6), (6, 7)]
        assert {record.source_position.last for record in records} == {4}

    async def test_missing_offsets_are_no_hole(self) -> None:
        """Compacted and expired records and transaction markers take offsets, but nobody waits for them."""
        owner = assignment()
        records = fetched(owner, 5, (8,), (11, 15)).getall()
        assert chain(records) == [(4, 8), (8, 11), (11, 15)]
        at = records[0].source_position
        assert [at.admit(record.offset, record.previous_offset) for record in records] == [Admission.ADMIT] * 3

    async def test_chain_goes_on_in_the_next_answer(self) -> None:
        """Records of two fetches, or two helpings of one, hang together."""
        owner = assignment()
        result = fetched(owner, 0, (0, 1, 2))
        assert chain(result.getall(max_records=2)) == [(-1, 0), (0, 1)]
        assert chain(result.getall()) == [(1, 2)]
        assert chain(fetched(owner, 3, (3,)).getall()) == [(2, 3)]

    async def test_seek_begins_a_new_chain(self) -> None:
        """After somebody sought, the first record follows the position sought to, so a hole behind it shows."""
        owner = assignment()
        at = fetched(owner, 0, (0, 1)).getall()[0].source_position
        owner.state_value(TP).seek(9)
        records = fetched(owner, 9, (9,)).getall()
        assert chain(records) == [(8, 9)]
        assert records[0].source_position is at

    async def test_position_dies_with_the_assignment(self) -> None:
        """A new assignment starts a new position, and the old one is no longer live."""
        first, second = assignment(), assignment()
        old = fetched(first, 0, (0,)).getall()[0].source_position
        first._unassign()
        new = fetched(second, 0, (0,)).getall()[0].source_position
        assert new is not old
        assert (old.live, new.live) == (False, True)
        assert (old.assignment, new.assignment) == (first, second)

    async def test_other_topics_are_left_alone(self) -> None:
        """Changelog records are Faust's business."""
        tp = TopicPartition("t-pending-changelog", 0)
        (record,) = fetched(assignment((tp.topic, 0)), 0, (0,), tp=tp).getall()
        assert not hasattr(record, "previous_offset")

    async def test_nothing_fetched_for_an_ended_assignment(self) -> None:
        """Records fetched before a rebalance are not handed out after it."""
        owner = assignment()
        result = fetched(owner, 0, (0,))
        owner._unassign()
        assert result.getall() == []


class TestBeginning:
    """Where a partition begins is what was committed, not what the log still has."""

    async def test_expired_records_show_as_a_hole(self) -> None:
        """The position begins at the commit, so the first record of a log that begins later does not follow."""
        owner = assignment()
        contiguity.begin_at(TP, owner.state_value(TP), 5)
        (record,) = fetched(owner, 8, (8,)).getall()
        assert record.source_position.admit(record.offset, record.previous_offset) is Admission.HOLE
        assert (record.source_position.last, record.source_position.expired) == (4, 0)

    async def test_fetched_before_the_commit_was_known(self) -> None:
        """A position that began where the log begins learns how many records are missing before it."""
        owner = assignment()
        (record,) = fetched(owner, 8, (8,)).getall()
        contiguity.begin_at(TP, owner.state_value(TP), 5)
        assert record.source_position.expired == 3
        contiguity.begin_at(TP, owner.state_value(TP), 9)
        assert record.source_position.expired == 0


class TestAdmission:
    """One judgement per event."""

    async def test_each_event_once_in_order(self) -> None:
        """An event that follows the last is admitted; the same or an older one is a duplicate."""
        at = position(start=5)
        assert at.admit(5, 4) is Admission.ADMIT
        assert at.admit(5, 4) is Admission.DUPLICATE
        assert at.admit(4, 3) is Admission.DUPLICATE
        assert at.last == 5

    async def test_hole_admits_nothing_until_it_is_closed(self) -> None:
        """While a record is missing nothing later is admitted; the missing one reopens the way."""
        at = position(start=0)
        assert at.admit(1, 0) is Admission.HOLE
        since = at.hole_since
        assert since is not None
        assert at.admit(2, 1) is Admission.HOLE
        assert (at.hole_since, at.last) == (since, -1)
        assert [at.admit(offset, offset - 1) for offset in (0, 1, 2)] == [Admission.ADMIT] * 3
        assert at.hole_since is None

    async def test_ended_assignment_admits_nothing(self) -> None:
        """The new owner reads it."""
        at = position()
        at.assignment._unassign()
        assert at.admit(0, -1) is Admission.STALE
        assert at.last == -1

    async def test_progress_forgets_earlier_seeks(self) -> None:
        """Attempts to mend one hole do not count against the next."""
        at = position()
        at.seeks = 3
        at.admit(0, -1)
        assert at.seeks == 0


class TestCommitPosition:
    """What may be committed."""

    @pytest.mark.parametrize(
        ("done", "handed_out", "fetch_position", "expected"),
        [
            (-1, -1, 0, 0),  # nothing read
            (4, 9, 10, 5),  # records under way
            (9, 9, 10, 10),  # all done
            (9, 9, 12, 12),  # all done, markers behind
            (9, 9, 3, 10),  # all done, sought back meanwhile
        ],
    )
    async def test_commit_position(self, done: int, handed_out: int, fetch_position: int, expected: int) -> None:
        """The next offset after what is done; past trailing markers only when everything handed out is done."""
        at: SourcePosition = position()
        at.done, at.chain = done, (handed_out, fetch_position)
        assert at.commit_position == expected
