"""The Faust tables: keys, partitions, what is sent in which stage, and what the store keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import orjson
import pytest
from faust.types import TP

from tests.unit.core.lives import CONTEXT, feedback
from tests.unit.stream.doubles import held_tables, logs
from worker import codecs
from worker.core.learn import Lesson
from worker.core.ledger import Spend
from worker.core.lifecycle import Pending
from worker.core.shard import Shard, ShardKey
from worker.core.statistics import ArmStatistics
from worker.settings import Settings
from worker.stream import app
from worker.stream.batch import Journal, Output
from worker.stream.state import SpendKey, State
from worker.stream.tables import Tables

USER = SpendKey("user", 86_400 * 3)
SHARD = ShardKey(2, "fp", "small")


@pytest.fixture(params=["memory", "rocksdb"])
async def tables(request: pytest.FixtureRequest, configured: Settings) -> AsyncIterator[Tables]:
    """On either store."""
    found = held_tables(configured, app._store(configured.model_copy(update={"store": request.param})))
    yield found
    found.take_over({})


def shard() -> Shard:
    found = Shard(ArmStatistics.zeros(3))
    found.apply(feedback(), Lesson(CONTEXT, reward=0.5))
    return found


def fill(journal: Journal) -> None:
    journal.put_spend(2, USER, Spend(settled=4))
    journal.put_pending(2, b"user\0q", Pending(decision=b"{}"))
    journal.put_shard(SHARD, shard())
    journal.emit(Output("t.decisions", 2, b"user", b"{}"))
    journal.emit(Output("t.dead-letters", 0, None, None, (("why", b"x"),)))


def acknowledge(tables: Tables, journal: Journal) -> None:
    for stage in tables.plan(journal.turn(), journal.state):
        for (topic, partition), changes in stage.items():
            tables.store(changes, SimpleNamespace(topic=topic, partition=partition, offset=10))


async def test_pending_leaves_first(tables: Tables, journal: Journal) -> None:
    """The arbiter is alone in the first stage; spend, arms, decisions and dead letters follow."""
    fill(journal)
    first, second = tables.plan(journal.turn(), journal.state)
    assert list(first) == [("t-pending-changelog", 2)]
    assert list(second) == [
        ("t-spend-changelog", 2), ("t-arms-changelog", 2), ("t.decisions", 2), ("t.dead-letters", 0),
    ]  # fmt: skip


async def test_each_key_leaves_once_with_its_last_value(tables: Tables, journal: Journal) -> None:
    """A window that changed for every event of a batch is written once, as it is now."""
    for settled in range(5):
        journal.put_spend(1, USER, Spend(settled=settled))
    _, second = tables.plan(journal.turn(), journal.state)
    (change,) = second["t-spend-changelog", 1]
    assert codecs.unpack_spend(change.value or b"") == Spend(settled=4)


async def test_partitions_are_not_mixed(tables: Tables, journal: Journal) -> None:
    """A record goes to the changelog partition of its key's lane, in one plan for many lanes."""
    journal.put_pending(0, b"a\0q", Pending())
    journal.put_pending(3, b"b\0q", Pending())
    first, _ = tables.plan(journal.turn(), journal.state)
    assert {place: [change.key for change in changes] for place, changes in first.items()} == {
        ("t-pending-changelog", 0): [b"a\0q"],
        ("t-pending-changelog", 3): [b"b\0q"],
    }


async def test_stored_values_come_back(tables: Tables, journal: Journal) -> None:
    """After the acknowledgement another assignment reads the same state from the store."""
    fill(journal)
    acknowledge(tables, journal)
    fresh = State(tables.load_pending, tables.load_spend, tables.load_shard)
    assert fresh.pending.get(2, b"user\0q") == Pending(decision=b"{}")
    assert fresh.spend.get(2, USER) == Spend(settled=4)
    found = fresh.shards.get(2, SHARD)
    assert found is not None
    assert found.pack() == shard().pack()
    assert list(tables.spend_keys()) == [USER]
    assert [key for key, _ in tables.pending_items()] == [b"user\0q"]


async def test_changelog_restores_what_was_written(tables: Tables, journal: Journal) -> None:
    """A recovered store holds every key with its last value, windows too, and no key that ended as a tombstone."""
    journal.put_pending(2, b"user\0gone", Pending(decision=b"{}"))
    fill(journal)
    logs = tables.plan(journal.turn(), journal.state)
    journal.put_pending(2, b"user\0gone", None)
    journal.put_spend(2, USER, Spend(settled=5))
    logs += tables.plan(journal.turn(), journal.state)
    for stage in logs:
        for (topic, partition), changes in stage.items():
            if topic in tables.topics.values():
                records = [
                    SimpleNamespace(key=change.key, value=change.value, offset=number, timestamp=1)
                    for number, change in enumerate(changes)
                ]
                tables.restore(TP(topic, partition), records)
    fresh = State(tables.load_pending, tables.load_spend, tables.load_shard)
    assert fresh.pending.get(2, b"user\0q") == Pending(decision=b"{}")
    assert fresh.pending.get(2, b"user\0gone") is None
    assert fresh.spend.get(2, USER) == Spend(settled=5)
    found = fresh.shards.get(2, SHARD)
    assert found is not None
    assert found.pack() == shard().pack()
    assert list(tables.spend_keys()) == [USER]


async def test_nothing_is_stored_before_the_acknowledgement(tables: Tables, journal: Journal) -> None:
    """Planning a batch leaves the store as it was: it never runs ahead of its changelog."""
    fill(journal)
    tables.plan(journal.turn(), journal.state)
    assert tables.load_pending(2, b"user\0q") is None
    assert tables.load_spend(2, USER) is None


async def test_tombstone_leaves_nothing_behind(tables: Tables, journal: Journal) -> None:
    """A deleted key is null in the changelog and gone from the store."""
    fill(journal)
    acknowledge(tables, journal)
    journal.put_pending(2, b"user\0q", None)
    journal.put_spend(2, USER, None)
    first, second = tables.plan(journal.batch, journal.state)
    assert first["t-pending-changelog", 2][0].value is None
    assert second["t-spend-changelog", 2][0].value is None
    acknowledge(tables, journal)
    assert (list(tables.pending_items()), list(tables.spend_keys())) == ([], [])
    assert (tables.load_pending(2, b"user\0q"), tables.load_spend(2, USER)) == (None, None)


async def test_store_knows_how_far_it_follows(tables: Tables, journal: Journal) -> None:
    """Faust's recovery reads on from the last record that was acknowledged, and from the beginning where none was."""
    fill(journal)
    journal.put_pending(2, b"user\0another", Pending())
    acknowledge(tables, journal)
    offsets = [table.persisted_offset(TP(table.changelog_topic_name, 2)) for table in tables.all]
    assert offsets == [11, 10, 10]
    assert [table.persisted_offset(TP(table.changelog_topic_name, 1)) for table in tables.all] == [-1, -1, -1]


async def test_what_a_take_over_leaves_to_read(tables: Tables, journal: Journal) -> None:
    """Records that the store has, or that no log has any more, are not counted."""
    fill(journal)
    acknowledge(tables, journal)
    assert tables.take_over(logs(2, end=12)) == 3
    assert tables.take_over(logs(1, 2, beginning=5, end=12)) == 3 + 3 * 7


async def test_windows_with_an_offset(configured: Settings) -> None:
    """A window that starts at an offset is stored under its own start."""
    shifted = configured.model_copy(update={"budget_window_s": 60, "budget_window_offset_s": 85})
    tables = held_tables(shifted)
    journal = Journal(State(tables.load_pending, tables.load_spend, tables.load_shard))
    for start in (60 * 7 + 85, 60 * 8 + 85):
        journal.put_spend(0, SpendKey("user", start), Spend(queries=start))
    _, second = tables.plan(journal.batch, journal.state)
    keys = [orjson.loads(change.key or b"") for change in second["t-spend-changelog", 0]]
    assert keys == [["user", [505.0, 564.9]], ["user", [565.0, 624.9]]]
    acknowledge(tables, journal)
    assert sorted(tables.spend_keys()) == [SpendKey("user", 505), SpendKey("user", 565)]
    assert tables.load_spend(0, SpendKey("user", 565)) == Spend(queries=565)
    assert codecs.unpack_spend_key(second["t-spend-changelog", 0][0].key or b"") == ("user", 505)
    assert tables.other_windows() == []


async def test_windows_of_another_offset_stay_what_they_were(configured: Settings) -> None:
    """Under a new offset an old window is found by its own start, and is none of the new ones."""
    minutes = configured.model_copy(update={"budget_window_s": 60})
    before, old = held_tables(minutes), SpendKey("user", 480)
    journal = Journal(State(before.load_pending, before.load_spend, before.load_shard))
    journal.put_spend(0, old, Spend(settled=7))
    acknowledge(before, journal)

    after = held_tables(minutes.model_copy(update={"budget_window_offset_s": 20}), before._store)

    assert after.load_spend(0, old) == Spend(settled=7)
    assert [after.load_spend(0, SpendKey("user", start)) for start in (440, 500)] == [None, None]
    assert (after.other_windows(), before.other_windows()) == ([old], [])


async def test_changelog_names_are_the_contract(tables: Tables, configured: Settings) -> None:
    """Faust names the changelogs as the topics are declared."""
    assert [table.changelog_topic_name for table in tables.all] == [
        configured.changelog(name) for name in ("pending", "spend", "arms")
    ]
