"""The contract of both stores: what they keep, how far they follow, and when they begin anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.stream.doubles import logs
from worker.kafka.topics import TABLES
from worker.stream.rocks import RocksStore
from worker.stream.store import MemoryStore, Store

MANY = 2_500  # more than two pages of an iteration
NOW_MS = 1_000_000


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore(TABLES)
    return RocksStore(tmp_path / "store", TABLES, lambda: NOW_MS)


def put(store: Store, partition: int, *keys: bytes, offset: int = 5) -> None:
    store.write("pending", partition, [(key, b"of " + key) for key in keys], offset, NOW_MS)


def test_values_come_back(store: Store) -> None:
    """A key's last value is kept in its own table and partition, and a deleted one is gone."""
    store.hold(logs(0, 1))
    store.write("pending", 0, [(b"k", b"1"), (b"k", b"2"), (b"gone", b"1"), (b"gone", None)], 7, NOW_MS)
    assert store.get("pending", 0, b"k") == b"2"
    assert (store.get("pending", 0, b"gone"), store.get("pending", 1, b"k"), store.get("spend", 0, b"k")) == (None,) * 3
    assert list(store.items("pending")) == [(b"k", b"2")]


def test_offset_is_that_of_the_last_record(store: Store) -> None:
    """Each table of each partition follows its own changelog."""
    store.hold(logs(0, 1))
    assert store.offset("pending", 0) == -1
    put(store, 0, b"k", offset=7)
    store.write("pending", 0, [(b"never there", None)], 9, NOW_MS)
    assert [store.offset("pending", 0), store.offset("pending", 1), store.offset("arms", 0)] == [9, -1, -1]


def test_everything_is_listed_once(store: Store) -> None:
    """Keys of all partitions come once, however many there are, and no book-keeping among them."""
    store.hold(logs(0, 3))
    keys = [b"key-%d" % number for number in range(MANY)]
    put(store, 0, *keys)
    put(store, 3, b"another")
    assert sorted(store.keys("pending")) == sorted([*keys, b"another"])
    assert sorted(store.items("pending")) == sorted((key, b"of " + key) for key in [*keys, b"another"])
    assert (store.size("pending"), store.size("spend")) == (MANY + 1, 0)


def test_listing_bears_changes(store: Store) -> None:
    """What is written or lost while somebody lists does not end the listing badly."""
    store.hold(logs(0))
    put(store, 0, *(b"key-%d" % number for number in range(MANY)))
    listing = store.keys("pending")
    seen = {next(listing)}
    put(store, 0, b"zz-late")
    seen |= {next(listing) for _ in range(10)}
    store.hold({})
    seen |= set(listing)
    assert seen >= {b"key-0"}
    store.hold(logs(0))  # nothing of the old listing keeps it from being opened again


def test_kept_partition_stays(store: Store) -> None:
    """A partition that this worker keeps is not read again."""
    store.hold(logs(0, 1))
    put(store, 0, b"k")
    store.hold(logs(0, 2, end=6))
    assert (store.get("pending", 0, b"k"), store.offset("pending", 0)) == (b"of k", 5)


def test_partition_that_is_not_held_takes_nothing(store: Store) -> None:
    """A late record of a lost partition is no beginning: the next recovery would skip what lies before it."""
    store.hold(logs(0))
    put(store, 1, b"k")
    assert (store.get("pending", 1, b"k"), store.offset("pending", 1)) == (None, -1)
    store.hold(logs(0, 1))
    assert (store.get("pending", 1, b"k"), store.offset("pending", 1)) == (None, -1)


@pytest.mark.parametrize(
    "found",
    [logs(0, topic_id="second"), logs(0, end=5), logs(0, beginning=7)],
    ids=["topic made anew", "changelog cut short", "changelog begins later"],
)
def test_what_does_not_follow_is_dropped(store: Store, found: dict) -> None:  # type: ignore[type-arg]
    """A store that is not the beginning of the changelog as it is now is read from the beginning."""
    store.hold(logs(0))
    put(store, 0, b"k", offset=5)
    store.hold(found)
    assert (store.get("pending", 0, b"k"), store.offset("pending", 0)) == (None, -1)
    put(store, 0, b"new", offset=1)
    assert (store.get("pending", 0, b"new"), store.offset("pending", 0)) == (b"of new", 1)


@pytest.mark.parametrize("edge", [logs(0, end=6), logs(0, beginning=6)], ids=["last record", "first missing record"])
def test_edges_still_follow(store: Store, edge: dict) -> None:  # type: ignore[type-arg]
    """The last record of the changelog may be the store's last, and the first one may be its next."""
    store.hold(logs(0))
    put(store, 0, b"k", offset=5)
    store.hold(edge)
    assert store.offset("pending", 0) == 5


def test_broker_without_topic_ids_is_not_trusted(store: Store) -> None:
    """Where nothing tells topics of one name apart everything is read again."""
    store.hold(logs(0, topic_id=""))
    put(store, 0, b"k")
    assert store.get("pending", 0, b"k") == b"of k"
    store.hold(logs(0, topic_id=""))
    assert store.offset("pending", 0) == -1


def test_lost_and_regained_in_memory() -> None:
    """Memory forgets a lost partition at once: what others did to it meanwhile is not in there."""
    store = MemoryStore(TABLES)
    store.hold(logs(0))
    put(store, 0, b"k")
    store.hold(logs(1))
    assert store.size("pending") == 0
    store.hold(logs(0))
    assert (store.get("pending", 0, b"k"), store.offset("pending", 0)) == (None, -1)
