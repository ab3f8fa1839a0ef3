"""Forgetting users: tombstones for everything the changelogs and the budgets topic hold under their names.

Every changelog key has one writer, the worker that owns the partition. So the group
must be empty, and the tombstones are written as the owner of their partition: under
its transactional id, which fences off whoever owned it before. Workers that start
later recover without these users.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import codecs
from worker.errors import OperationFailed
from worker.kafka import compacted, connect
from worker.kafka.rights import describe_group
from worker.settings import Settings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

_TOPICS = ("pending", "spend", "budgets")
_SLACK_S = 5.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many records of one user were replaced by tombstones."""

    queries: int
    windows: int
    budgets: int


async def forget(settings: Settings, user_ids: Collection[str]) -> Mapping[str, Forgotten]:
    """Write the tombstones and wait until all are acknowledged; repeating it is safe.

    Raises:
        OperationFailed: a worker runs, or one started meanwhile; no broker; missing topics or rights.
    """
    # A worker that was stopped stays a member until its session ends (KIP-345).
    await _require_no_worker(settings, "stop all workers, then repeat", settings.session_timeout_s + _SLACK_S)
    places = [place for name in _TOPICS for place in await _found(settings, name, frozenset(user_ids))]
    for partition in sorted({place.partition for place in places if place.kind != "budgets"}):
        async with (
            connect.producer(settings, transactional_id=settings.owner_id(partition)) as owner,
            owner.transaction(),
        ):
            await _bury(owner, [place for place in places if place.kind != "budgets" and place.partition == partition])
    async with connect.producer(settings, enable_idempotence=True) as client:
        await _bury(client, [place for place in places if place.kind == "budgets"])
    await _require_no_worker(settings, "it may still know these users: stop all workers, then repeat")
    counts = Counter((place.user_id, place.kind) for place in places)
    return {user: Forgotten(*(counts[user, kind] for kind in _TOPICS)) for user in user_ids}


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    user_id: str
    topic: str
    partition: int
    key: bytes


async def _found(settings: Settings, kind: str, users: frozenset[str]) -> list[_Place]:
    topic = settings.topic(kind) if kind == "budgets" else settings.changelog(kind)
    records = await compacted.latest(settings, topic)
    owners = ((_owner(kind, key), key, record) for key, record in records.items())
    return [_Place(kind, user, topic, record.partition, key) for user, key, record in owners if user in users]


def _owner(kind: str, key: bytes) -> str:
    if kind == "pending":
        return codecs.unpack_pending_key(key)[0]
    if kind == "spend":
        return codecs.unpack_spend_key(key)[0]
    return key.decode(errors="replace")


async def _bury(client: AIOKafkaProducer, places: Iterable[_Place]) -> None:
    sent = [await client.send(place.topic, None, key=place.key, partition=place.partition) for place in places]
    for acknowledged in sent:
        await acknowledged


async def _require_no_worker(settings: Settings, advice: str, patience_s: float = 0.0) -> None:
    deadline = time.monotonic() + patience_s
    while members := await _members(settings):
        if time.monotonic() > deadline:
            names = ", ".join(sorted(members))
            raise OperationFailed(f"group {settings.application_id} has members ({names}): {advice}")
        await asyncio.sleep(_POLL_S)


async def _members(settings: Settings) -> list[str]:
    async with connect.admin(settings) as client:
        code, _, _, _, _, members, *_ = await describe_group(client, settings.application_id)
    if code:
        raise connect.denied(settings, "Describe", f"group {settings.application_id}")
    return [member[0] for member in members]
