"""Dead letters listed, shown and put back, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.errors import ProducerFenced

from worker.kafka import compacted, connect, replay
from worker.kafka.compacted import Record
from worker.kafka.deadletters import Selection
from worker.kafka.partitioning import partition_of
from worker.settings import Settings

PILOT = Path(sys.executable).with_name("pilot")


async def set_aside(
    settings: Settings,
    value: bytes | None,
    *,
    key: bytes | None = b"ann",
    code: str = "invalid_event",
    source: str = "queries",
    headers: tuple[tuple[str, bytes], ...] = (),
) -> None:
    origin = {
        "pilot.error.code": code,
        "pilot.error.message": "text: too long",
        "pilot.source.topic": settings.topic(source),
        "pilot.source.partition": "0",
        "pilot.source.offset": "7",
        "pilot.source.timestamp": "1767225600000",
    }
    added = [(name, text.encode()) for name, text in origin.items()]
    async with connect.producer(settings) as producer:
        batch = producer.create_batch()  # takes a record that has neither key nor value
        batch.append(key=key, value=value, timestamp=None, headers=[*headers, *added])
        await (await producer.send_batch(batch, settings.topic("dead-letters"), partition=0))


async def records(settings: Settings, name: str) -> list[Record]:
    found: list[Record] = []
    await compacted.read_to_end(settings, settings.topic(name), found.append)
    return found


def pilot(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PILOT_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PILOT_TOPIC_PREFIX": settings.topic_prefix,
    }
    return subprocess.run([PILOT, *arguments], env=environment, capture_output=True, text=True, check=False)


async def test_replay_restores_the_original_once(deployment: Settings) -> None:
    """Value, key and headers come back as they were, on the key's partition, and a second replay adds nothing."""
    original = (("traceparent", b"00-ab"), ("pilot.error.code", b"the caller's own"))
    await set_aside(deployment, b"\xff not even text", headers=original)
    await set_aside(deployment, None, key=b"bob", source="feedback")

    first = await replay.replay(deployment, Selection())
    second = await replay.replay(deployment, Selection())

    assert (len(first.replayed), first.earlier) == (2, 0)
    assert (len(second.replayed), second.earlier) == (0, 2)
    (query,) = await records(deployment, "queries")
    assert (query.value, query.key, query.headers) == (b"\xff not even text", b"ann", original)
    assert query.partition == partition_of(b"ann", 4)
    (feedback,) = await records(deployment, "feedback")
    assert (feedback.value, feedback.key, feedback.headers) == (None, b"bob", ())


async def test_replay_selects_by_code_and_time(deployment: Settings) -> None:
    """Only the chosen code and time go back; what was left out goes back later."""
    await set_aside(deployment, b"1", code="unknown_query")
    await set_aside(deployment, b"2", code="invalid_event")
    await asyncio.sleep(0.01)
    (first, second) = await records(deployment, "dead-letters")

    by_code = await replay.replay(deployment, Selection(code="unknown_query"))
    by_time = await replay.replay(deployment, Selection(since_ms=second.timestamp + 1))
    rest = await replay.replay(deployment, Selection(since_ms=first.timestamp))

    assert [letter.value for letter in by_code.replayed] == [b"1"]
    assert by_time.replayed == ()
    assert ([letter.value for letter in rest.replayed], rest.earlier) == ([b"2"], 1)


async def test_replay_without_key_returns_to_its_partition(deployment: Settings) -> None:
    """A record without key has no partition of its own and goes where it came from."""
    await set_aside(deployment, b"{}", key=None, code="invalid_key")
    await replay.replay(deployment, Selection())
    (query,) = await records(deployment, "queries")
    assert (query.partition, query.key) == (0, None)


async def test_replay_of_a_record_that_has_nothing(deployment: Settings) -> None:
    """Neither key nor value: it goes back all the same, with its headers, and so do the letters around it."""
    await set_aside(deployment, b"1")
    await set_aside(deployment, None, key=None, code="invalid_json", headers=(("traceparent", b"00-ab"),))
    await set_aside(deployment, b"2")
    done = await replay.replay(deployment, Selection())
    assert len(done.replayed) == 3
    found = [(record.key, record.value, record.headers) for record in await records(deployment, "queries")]
    assert sorted(found, key=str) == sorted(
        [(b"ann", b"1", ()), (None, None, (("traceparent", b"00-ab"),)), (b"ann", b"2", ())], key=str
    )


async def test_replay_of_an_empty_key_goes_where_it_belongs(deployment: Settings) -> None:
    """An empty key is a key."""
    home = partition_of(b"", 4)
    assert home != 0, "the letter says that it came from partition 0"
    await set_aside(deployment, b"{}", key=b"", code="invalid_key")
    await replay.replay(deployment, Selection())
    (query,) = await records(deployment, "queries")
    assert (query.partition, query.key) == (home, b"")


async def test_dry_run_changes_nothing(deployment: Settings) -> None:
    """A dry run names what would go back and writes nothing."""
    await set_aside(deployment, b"{}")
    shown = pilot(deployment, "dead-letters", "replay", "--dry-run")
    assert shown.returncode == 0
    assert shown.stdout.splitlines() == [
        f"0: invalid_event: would go back to {deployment.topic('queries')}",
        "1 to put back, 0 were put back earlier",
    ]
    assert await records(deployment, "queries") == []


async def test_many_large_letters_go_back(deployment: Settings) -> None:
    """More letters than one transaction holds all go back, each once, whatever their size."""
    values = [bytes([65 + number % 26]) * 300_000 for number in range(45)]
    for value in values:
        await set_aside(deployment, value)
    done = await replay.replay(deployment, Selection())
    assert len(done.replayed) == 45
    assert [record.value for record in await records(deployment, "queries")] == values


async def test_interrupted_replay_leaves_no_half(deployment: Settings) -> None:
    """A replay that dies inside its transaction has put nothing back, and the next one does it all."""
    await set_aside(deployment, b"{}")
    async with connect.producer(
        deployment, transactional_id=f"{deployment.application_id}-dead-letters-replay"
    ) as dying:
        await dying.begin_transaction()
        await dying.send_and_wait(deployment.topic("queries"), b"half", key=b"ann")
        await replay.replay(deployment, Selection())
        with pytest.raises(ProducerFenced):
            await dying.commit_transaction()
        values = [record.value for record in await records(deployment, "queries")]
    assert values == [b"{}"]


async def test_list_and_show(deployment: Settings) -> None:
    """`list` gives one line a letter with its reason, `show` the record in full."""
    await set_aside(deployment, b'{"text": 5}', headers=(("traceparent", b"00-ab"),))
    await set_aside(deployment, b"other", code="unknown_query")

    rows = json.loads(pilot(deployment, "dead-letters", "list", "--code", "invalid_event", "--json").stdout)
    shown = pilot(deployment, "dead-letters", "show", "0").stdout
    late = pilot(deployment, "dead-letters", "list", "--since", "2999-01-01T00:00:00Z")

    assert [(row["offset"], row["code"], row["source_offset"], row["key"]) for row in rows] == [
        (0, "invalid_event", 7, "ann")
    ]
    assert 'value: {"text": 5}' in shown
    assert "header traceparent: 00-ab" in shown
    assert "message: text: too long" in shown
    assert "sent_at: 2026-01-01T00:00:00.000Z" in shown
    assert "other" not in shown
    assert late.stdout == "no dead letters\n"


async def test_foreign_records_are_no_dead_letters(deployment: Settings) -> None:
    """A record of the dead-letter topic without our headers is left out."""
    async with connect.producer(deployment) as producer:
        await producer.send_and_wait(deployment.topic("dead-letters"), b"stray")
    assert pilot(deployment, "dead-letters", "list", "--json").stdout == "[]\n"


KILLED_INSIDE = """
import asyncio, os, signal
from aiokafka import AIOKafkaProducer
from worker.kafka import replay
from worker.kafka.deadletters import Selection
from worker.settings import load

settings, _ = load()
send = AIOKafkaProducer.send_and_wait

async def dying(producer, topic, *args, **more):
    if topic == settings.changelog("replayed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return await send(producer, topic, *args, **more)

AIOKafkaProducer.send_and_wait = dying
asyncio.run(replay.replay(settings, Selection()))
"""


async def test_replay_killed_before_its_marker(deployment: Settings) -> None:
    """Killed when the record is published and its marker is not, a replay has put nothing back; the next does, once."""
    await set_aside(deployment, b"{}")
    environment = {
        **os.environ,
        "PILOT_BOOTSTRAP_SERVERS": deployment.bootstrap_servers,
        "PILOT_TOPIC_PREFIX": deployment.topic_prefix,
    }
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED_INSIDE], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    again = await replay.replay(deployment, Selection())
    once_more = await replay.replay(deployment, Selection())

    assert (len(again.replayed), again.earlier) == (1, 0)
    assert (len(once_more.replayed), once_more.earlier) == (0, 1)
    assert [record.value for record in await records(deployment, "queries")] == [b"{}"]
