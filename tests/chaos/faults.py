"""The faults, each a small script against a running fleet, and the seeded order in which they come."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.chaos.faulty_worker import BETWEEN, DIED_BETWEEN, DIED_WITHIN, WITHIN
from tests.chaos.supervisor import LocalBroker, Supervised

SESSION_TIMEOUT_S = 6
FREEZE_S = (SESSION_TIMEOUT_S + 1.0, SESSION_TIMEOUT_S + 6.0)
PAUSE_S = (0.5, 3.0)  # within the lease
BROKER_DOWN_S = (1.0, 6.0)
OUTAGE_S = (15.0, 60.0)  # every session expires meanwhile
DISK_FULL_S = 10.0
_DEATH_TIMEOUT_S = 20.0
_FULL_TIMEOUT_S = 60.0
_LEFT_BYTES = 300_000  # so that another file meets the end each time
SUSPECT_STOPS = {None, 1, 2, 74}  # a worker that is scaled down amid another fault may still leave by itself


@dataclass(slots=True)
class Fleet:
    """Everything a fault can act on. `guest` comes and goes, the other workers are restarted for ever."""

    broker: LocalBroker
    workers: list[Supervised]
    guest: Supervised
    rng: random.Random
    resend: Callable[[], Awaitable[None]]
    outage_s: tuple[float, float] = OUTAGE_S
    notes: list[str] = field(default_factory=list)

    async def victim(self) -> Supervised:
        """A worker that is ready: a signal meets a process that can handle it."""
        chosen = self.rng.choice(self.workers)
        if not await chosen.ready():
            self.notes.append(f"{chosen.name} was not ready in time")
        return chosen


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault that happened: what, to whom, when, and when a broker that it took was back (s since the epoch)."""

    kind: str
    whom: str
    at: float
    broker_back: float | None = None


async def _kill(fleet: Fleet) -> Blow:
    chosen = fleet.rng.choice(fleet.workers)
    blow = Blow("kill", chosen.name, time.time())
    chosen.signal(signal.SIGKILL)
    return blow


async def _terminate(fleet: Fleet) -> Blow:
    chosen = await fleet.victim()
    blow, lives = Blow("terminate", chosen.name, time.time()), len(chosen.exits)
    chosen.signal(signal.SIGTERM)
    if not await chosen.next_life(lives, _DEATH_TIMEOUT_S) or chosen.exits[lives] != 0:
        fleet.notes.append(f"{chosen.name} did not leave cleanly on SIGTERM: {chosen.exits[lives:]}")
    return blow


async def _die_inside(fleet: Fleet, kind: str, signum: signal.Signals, code: int) -> Blow:
    chosen = await fleet.victim()
    lives = len(chosen.exits)
    chosen.signal(signum)
    # A worker without partitions sends nothing and cannot die while sending.
    if not await chosen.next_life(lives, _DEATH_TIMEOUT_S) or chosen.exits[lives] != code:
        fleet.notes.append(f"{chosen.name} did not die {kind}: {chosen.exits[lives:]}")
    return Blow(kind, chosen.name, time.time())


async def _between(fleet: Fleet) -> Blow:
    return await _die_inside(fleet, "between stages", BETWEEN, DIED_BETWEEN)


async def _within(fleet: Fleet) -> Blow:
    return await _die_inside(fleet, "within stage 2", WITHIN, DIED_WITHIN)


async def _freeze(fleet: Fleet) -> Blow:
    chosen = await fleet.victim()
    blow = Blow("freeze", chosen.name, time.time())
    chosen.signal(signal.SIGSTOP)
    await asyncio.sleep(fleet.rng.uniform(*FREEZE_S))
    chosen.signal(signal.SIGCONT)
    return blow


async def _pause(fleet: Fleet) -> Blow:
    chosen = await fleet.victim()
    blow, lives = Blow("pause", chosen.name, time.time()), len(chosen.exits)
    chosen.signal(signal.SIGSTOP)
    await asyncio.sleep(fleet.rng.uniform(*PAUSE_S))
    chosen.signal(signal.SIGCONT)
    if chosen.exits[lives:]:
        fleet.notes.append(f"{chosen.name} ended after a short pause: {chosen.exits[lives:]}")
    return blow


async def _scale(fleet: Fleet) -> Blow:
    """Down to one worker at once, then up to all."""
    kept, *others = fleet.rng.sample(fleet.workers, len(fleet.workers))
    blow = Blow("scale", f"{len(others)} of {len(fleet.workers)}", time.time())
    codes = await asyncio.gather(*(worker.stop() for worker in others))
    await kept.ready()
    for worker in others:
        worker.start()
    await asyncio.gather(*(worker.ready() for worker in others))
    if SUSPECT_STOPS & set(codes):
        fleet.notes.append(f"workers did not leave cleanly when scaled down: {codes}")
    return blow


async def _resend(fleet: Fleet) -> Blow:
    blow = Blow("resend", "client", time.time())
    await fleet.resend()
    return blow


async def _join(fleet: Fleet) -> Blow:
    if fleet.guest.kept:
        return await _leave(fleet)
    blow = Blow("join", fleet.guest.name, time.time())
    fleet.guest.start()
    await fleet.guest.ready()
    return blow


async def _leave(fleet: Fleet) -> Blow:
    if not fleet.guest.kept:
        return await _join(fleet)
    blow = Blow("leave", fleet.guest.name, time.time())
    if await fleet.guest.stop() != 0:
        fleet.notes.append(f"{fleet.guest.name} did not leave cleanly: {fleet.guest.exits[-1:]}")
    return blow


async def _away(fleet: Fleet, kind: str, down_s: tuple[float, float]) -> Blow:
    began = time.time()
    fleet.broker.kill()
    await asyncio.sleep(fleet.rng.uniform(*down_s))
    await asyncio.to_thread(fleet.broker.restart)
    return Blow(kind, "broker", began, time.time())


async def _broker(fleet: Fleet) -> Blow:
    return await _away(fleet, "broker kill", BROKER_DOWN_S)


async def _outage(fleet: Fleet) -> Blow:
    return await _away(fleet, "outage", fleet.outage_s)


async def _full(fleet: Fleet) -> Blow:
    """The broker's disk is full until the broker has ended of it; then there is space again."""
    blow = Blow("full disk", "broker", time.time())
    fleet.broker.fill_disk(fleet.rng.randrange(_LEFT_BYTES))
    if not await asyncio.to_thread(fleet.broker.ended, _FULL_TIMEOUT_S):
        fleet.notes.append("the broker went on with a full disk")
        fleet.broker.kill()
    await asyncio.sleep(DISK_FULL_S)
    fleet.broker.free_disk()
    await asyncio.to_thread(fleet.broker.restart)
    return blow


KINDS: dict[str, Callable[[Fleet], Awaitable[Blow]]] = {
    "kill": _kill,
    "terminate": _terminate,
    "between": _between,
    "within": _within,
    "freeze": _freeze,
    "full": _full,
    "join": _join,
    "leave": _leave,
    "broker": _broker,
    "outage": _outage,
    "pause": _pause,
    "resend": _resend,
    "scale": _scale,
}
DRAWN = tuple(kind for kind in KINDS if kind != "full")  # that one needs a disk of its own


def draw(rng: random.Random, count: int) -> tuple[str, ...]:
    """So many of DRAWN in a random order; none comes again before every other has come once."""
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += rng.sample(DRAWN, len(DRAWN))
    return tuple(kinds[:count])


async def strike(fleet: Fleet, kinds: tuple[str, ...], pause_s: tuple[float, float]) -> list[Blow]:
    """One fault after the other; what recovers slowly is hit by the next."""
    blows = []
    for kind in kinds:
        await asyncio.sleep(fleet.rng.uniform(*pause_s))
        blows.append(await KINDS[kind](fleet))
    await asyncio.sleep(pause_s[1])
    return blows
