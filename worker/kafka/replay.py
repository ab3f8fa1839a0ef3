"""Putting dead letters back on their source topics, each once, however often it is asked for.

The record and a marker that it was replayed are written in one transaction, the
marker to an internal compacted topic: after any interruption a letter is either
replayed and marked, or neither. Two replays at a time exclude each other, because
the transactional id fences the older one (KIP-98).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from worker.kafka import compacted, connect, deadletters
from worker.kafka.deadletters import DeadLetter, Selection
from worker.kafka.partitioning import partition_of
from worker.kafka.topics import REPLAYED
from worker.settings import Settings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

_SOURCES = ("queries", "feedback")
# A transaction must end within its timeout, and memory holds one chunk of records of mostly less than 5 MiB.
_CHUNK = 20


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay did, or would do: letters put back, and those put back earlier."""

    replayed: tuple[DeadLetter, ...]
    earlier: int


async def replay(settings: Settings, selection: Selection, *, dry_run: bool = False) -> Replay:
    """Put the selected dead letters back: original value, key and headers, on the partition of the key.

    A letter without key returns to the partition that it came from.

    Raises:
        OperationFailed: no broker, missing topics, or another replay took over.
    """
    if dry_run:
        return await _pending(settings, selection)
    async with connect.producer(
        settings,
        transactional_id=f"{settings.application_id}-dead-letters-replay",
        compression_type="zstd",  # what came compressed may not fit otherwise
    ) as client:
        # Only now, with any older replay fenced off, are the markers complete.
        found = await _pending(settings, selection)
        partitions = {
            topic: len(await client.partitions_for(topic)) for topic in {letter.topic for letter in found.replayed}
        }
        letters = iter(found.replayed)
        while chunk := list(islice(letters, _CHUNK)):
            async with client.transaction():
                await _send(client, settings, chunk, partitions)
    return found


async def _pending(settings: Settings, selection: Selection) -> Replay:
    done = await compacted.latest(settings, settings.changelog(REPLAYED))
    sources = [settings.topic(name) for name in _SOURCES]
    letters: list[DeadLetter] = []
    earlier = 0

    def sort(letter: DeadLetter) -> None:
        nonlocal earlier
        if letter.topic not in sources:
            return  # written by something else: there is nothing of ours to put it back on
        if letter.identity in done:
            earlier += 1
        else:
            letters.append(letter)

    await deadletters.read(settings, selection, sort)
    return Replay(tuple(letters), earlier)


async def _send(
    client: AIOKafkaProducer, settings: Settings, letters: Iterable[DeadLetter], partitions: dict[str, int]
) -> None:
    for letter in letters:
        home = letter.partition if letter.key is None else partition_of(letter.key, partitions[letter.topic])
        batch = client.create_batch()  # `send` refuses a record that has neither key nor value
        batch.append(key=letter.key, value=letter.value, timestamp=None, headers=list(letter.headers))
        await (await client.send_batch(batch, letter.topic, partition=home))
        await client.send_and_wait(settings.changelog(REPLAYED), letter.topic.encode(), key=letter.identity)
