"""A real worker with one fault built in: `python -m tests.chaos.broken_worker FAULT`.

Each fault is what a defect of Faust, of the client or of the worker itself would look
like; the worker must notice and leave with the code of the contract, or mend it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from worker.settings import load
from worker.stream import app
from worker.stream.commits import ConsumerThread
from worker.stream.delivery import KafkaDelivery, Sent
from worker.stream.fencing import Claims
from worker.stream.intake import Intake
from worker.stream.route import RouteHandler
from worker.stream.run import run

BROKEN_AT = 20  # queries that are dealt with before the fault shows
LOST = 30
PAUSE_S = 5.0


def _drop(dropped: Callable[[Any], bool]) -> None:
    """Records that were handed out and never reach the guard."""
    take = Intake._take

    async def deaf(intake: Any, chunk: Any) -> None:
        arrived = [one for one in chunk.records if not (one.topic.endswith("queries") and dropped(one.offset))]
        for _ in range(len(chunk.records) - len(arrived)):
            chunk.ack()
        chunk.records = arrived
        await take(intake, chunk)

    Intake._take = deaf


def hole() -> None:
    """One record never arrives, however often it is fetched."""
    _drop(lambda offset: offset == BROKEN_AT)


def deaf() -> None:
    """From one record on nothing arrives: there is no later one that would show the hole."""
    _drop(lambda offset: offset >= BROKEN_AT)


def lossy() -> None:
    """Records get lost once: fetched again, they arrive."""
    lost: set[int] = set()

    def once(offset: int) -> bool:
        first = BROKEN_AT <= offset < BROKEN_AT + LOST and offset not in lost
        lost.add(offset)
        return first

    _drop(once)


def no_fetch() -> None:
    """The fetcher hands out nothing more, though there is more."""
    getmany, handed_out = ConsumerThread.getmany, 0

    async def starving(thread: Any, active: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        nonlocal handed_out
        if handed_out:
            await asyncio.sleep(timeout)
            return {}
        thread._consumer._max_poll_records = BROKEN_AT
        found = await getmany(thread, active, timeout)
        handed_out = sum(len(records) for tp, records in found.items() if tp.topic.endswith("queries"))
        return found

    ConsumerThread.getmany = starving


def unreadable() -> None:
    """The client cannot read what the broker sends."""
    getmany = ConsumerThread.getmany

    async def failing(thread: Any, active: Any, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        found = await getmany(thread, active, timeout)
        if any(tp.topic.endswith("queries") for tp in found):
            raise ValueError("no record batch")
        return found

    ConsumerThread.getmany = failing


def no_commit() -> None:
    """Commits do not happen and raise nothing."""

    async def forgetful(_: Any, wanted: Any) -> list[Any]:
        del wanted
        return []

    ConsumerThread.commit_positions = forgetful


def crawl() -> None:
    """Each commit advances by one offset."""
    commit = ConsumerThread.commit_positions

    async def crawling(thread: Any, wanted: Any) -> Any:
        return await commit(thread, [(position, min(offset, position.committed + 1)) for position, offset in wanted])

    ConsumerThread.commit_positions = crawling


def no_delivery() -> None:
    """Writes are queued and neither acknowledged nor refused."""
    send = KafkaDelivery.send

    async def swallowed(port: Any, topic: str, partition: int, records: Any) -> list[Sent]:
        if any(record.value is not None for record in records):
            return [Sent(asyncio.get_running_loop().create_future(), len(records))]
        return await send(port, topic, partition, records)

    KafkaDelivery.send = swallowed


def pause() -> None:
    """The event loop stands still for longer than the lease."""
    answer = RouteHandler._answer

    def slow(handler: Any, record: Any, *rest: Any) -> None:
        answer(handler, record, *rest)
        if record.offset == BROKEN_AT:
            time.sleep(PAUSE_S)

    RouteHandler._answer = slow


def half() -> None:
    """An older version without the feedback agent, which tears the partitions of a group apart."""
    agent = app._agent

    def only_queries(faust_app: Any, settings: Any, topic: str, *rest: Any) -> None:
        if topic.endswith("queries"):
            agent(faust_app, settings, topic, *rest)

    app._agent = only_queries


def unfenced() -> None:
    """Nobody's late writes are refused."""

    async def claim(claims: Any, assigned: Any) -> None:
        del claims, assigned

    Claims.claim = claim


FAULTS = {
    fault.__name__: fault
    for fault in (hole, deaf, lossy, no_fetch, unreadable, no_commit, crawl, no_delivery, pause, half, unfenced)
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    run(load()[0])
