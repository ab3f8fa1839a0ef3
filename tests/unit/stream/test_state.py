"""The cache over the store: the latest write is seen at once, and nothing unacknowledged is dropped."""

from __future__ import annotations

from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.stream.batch import Journal
from worker.stream.state import Cache, SpendKey, State


def counting(stored: dict[str, int]) -> tuple[Cache[str, int], list[tuple[int, str]]]:
    loads: list[tuple[int, str]] = []

    def load(partition: int, key: str) -> int | None:
        loads.append((partition, key))
        return stored.get(key)

    return Cache(load, limit=3), loads


def test_reads_fall_through_once() -> None:
    """A value comes from the store the first time, from memory after that, absence too."""
    cache, loads = counting({"a": 1})
    assert [cache.get(2, "a"), cache.get(2, "a"), cache.get(2, "b"), cache.get(2, "b")] == [1, 1, None, None]
    assert loads == [(2, "a"), (2, "b")]


def test_write_is_seen_before_the_store_has_it() -> None:
    """A reader sees its own worker's latest write, deletions included."""
    cache, _ = counting({"a": 1})
    cache.put("a", 5, batch=1)
    assert cache.get(0, "a") == 5
    cache.put("a", None, batch=1)
    assert cache.get(0, "a") is None


def test_eviction_never_drops_what_is_unacknowledged() -> None:
    """However far above the limit, a value stays until its batch is acknowledged."""
    cache, loads = counting({})
    for number in range(10):
        cache.put(f"k{number}", number, batch=number)
    cache.evict(acknowledged=-1)
    assert len(cache) == 10
    cache.evict(acknowledged=4)
    assert [cache.get(0, f"k{number}") for number in range(5, 10)] == [5, 6, 7, 8, 9]
    assert loads == []
    assert len(cache) == 5


def test_eviction_spares_an_old_key_that_was_written_again() -> None:
    """The last write of a key counts, not its first."""
    cache, _ = counting({})
    for number in range(5):
        cache.put(f"k{number}", number, batch=1)
    cache.put("k0", 99, batch=2)
    cache.evict(acknowledged=1)
    assert cache.get(0, "k0") == 99


def test_eviction_drops_the_oldest_write_first() -> None:
    """A key that was written again is as young as its last write."""
    cache, loads = counting({})
    for number in range(5):
        cache.put(f"k{number}", number, batch=1)
    cache.put("k0", 99, batch=1)
    cache.evict(acknowledged=1)
    assert cache.get(0, "k0") == 99
    assert loads == []


def test_eviction_stops_at_the_limit() -> None:
    """Below the limit nothing is dropped."""
    cache, loads = counting({"a": 1})
    cache.get(0, "a")
    cache.evict(acknowledged=100)
    cache.get(0, "a")
    assert loads == [(0, "a")]


def test_eviction_keeps_working_behind_an_unacknowledged_head() -> None:
    """Old entries that wait for their acknowledgement do not stop younger, acknowledged ones from leaving for ever."""
    cache, _ = counting({})
    for number in range(40):
        cache.put(f"k{number}", number, batch=number)
        cache.evict(acknowledged=number)
    assert len(cache) <= 4


class TestJournal:
    """State and batch are written in one step."""

    async def test_write_goes_to_both(self, journal: Journal, state: State) -> None:
        """What is put is readable and leaves with the current batch, on its partition."""
        key = SpendKey("user", 0)
        journal.put_pending(3, b"p", Pending(decision=b"{}"))
        journal.put_spend(3, key, Spend(settled=1))
        assert state.pending.get(3, b"p") == Pending(decision=b"{}")
        assert state.spend.get(3, key) == Spend(settled=1)
        assert (journal.batch.pending, journal.batch.spend) == ({b"p": 3}, {key: 3})

    async def test_batches_are_numbered_on(self, journal: Journal) -> None:
        """Closing a batch begins an empty one with the next number."""
        journal.put_pending(0, b"p", Pending())
        first = journal.turn()
        assert (first.number, journal.batch.number) == (1, 2)
        assert (first.pending, journal.batch.pending) == ({b"p": 0}, {})

    async def test_batch_written_again_stays_unacknowledged(self, journal: Journal, state: State) -> None:
        """A key of a batch under way that changes again belongs to the later batch."""
        journal.put_pending(0, b"p", Pending(window=1))
        journal.turn()
        journal.put_pending(0, b"p", Pending(window=2))
        state.pending._limit = 0
        state.evict(acknowledged=1)
        assert state.pending.get(0, b"p") == Pending(window=2)


def test_written_since_gives_the_latest_writes_only() -> None:
    """What a batch and later ones wrote, latest first and once; what was only read is left out."""
    cache, _ = counting({"read": 7})
    cache.put("old", 1, batch=1)
    cache.put("again", 2, batch=1)
    cache.put("new", 3, batch=2)
    cache.get(0, "read")
    cache.put("again", 4, batch=3)
    assert cache.written_since(2) == [("again", 4), ("new", 3)]
    assert cache.written_since(4) == []
