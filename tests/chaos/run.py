"""One chaos run from empty topics to the verdict: workers, a client, faults, a quiet end, the oracle."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka.errors import KafkaError

from tests.chaos.events import LIMITS_USD, MODELS
from tests.chaos.evidence import EXPECTED_CODE, Evidence, collect, progress
from tests.chaos.faults import OUTAGE_S, SESSION_TIMEOUT_S, Blow, Fleet, strike
from tests.chaos.oracle import violations
from tests.chaos.supervisor import LocalBroker, Supervised
from tests.chaos.traffic import Client
from worker.errors import OperationFailed
from worker.kafka import topics
from worker.kafka.publish import publish
from worker.settings import ReserveMode, Settings, StoreKind

PARTITIONS = 4
QUIET_TIMEOUT_S = 120.0
WINDOW_S = 10
# Ends that mean a defect, not a fault: failed, wrong use, broken state. A worker that starts
# just when the broker is killed may fail.
_SUSPECT_EXITS = frozenset({1, 2, 74})
_SUSPECT_EXITS_WITHOUT_BROKER = _SUSPECT_EXITS - {1}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does. `rate`: queries a second; `park_s`: how long early feedback waits for its query."""

    seed: int
    kinds: tuple[str, ...] = ()
    workers: int = 2
    rate: float = 40.0
    pause_s: tuple[float, float] = (3.0, 6.0)
    park_s: float = 300.0
    reserve: ReserveMode = "quantile"
    store: StoreKind = "memory"
    outage_s: tuple[float, float] = OUTAGE_S


class Recovery(NamedTuple):
    """Seconds until routing went on, and how many of them there was no broker: nobody can route then."""

    seconds: float
    without_broker: float

    @property
    def own(self) -> float:
        """Seconds that the workers took."""
        return self.seconds - self.without_broker

    def __str__(self) -> str:
        gone = f", {self.without_broker:.1f} s of them without a broker" if self.without_broker else ""
        return f"{self.seconds:.1f} s{gone}"


@dataclass(slots=True)
class Result:
    """A finished run. `recovered` has one entry a blow: until every partition went on."""

    plan: Plan
    evidence: Evidence
    violations: list[str]
    blows: list[Blow]
    recovered: list[Recovery | None]
    exits: Counter[int]
    sent: Counter[str]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def run(plan: Plan, broker: LocalBroker, folder: Path) -> Result:
    """Run the plan with a deployment of its own."""
    began = time.monotonic()
    settings = Settings(
        bootstrap_servers=broker.address, topic_prefix=f"chaos{plan.seed}-{time.time_ns()}.", data_dir=folder,
        budget_window_s=WINDOW_S, session_timeout_s=SESSION_TIMEOUT_S, park_s=plan.park_s,
        reserve=plan.reserve, store=plan.store,
    )  # fmt: skip
    await _prepare(settings)
    client, stop = Client(settings, PARTITIONS, random.Random(plan.seed)), asyncio.Event()
    fleet = _fleet(plan, settings, broker, folder, client)
    traffic = asyncio.create_task(client.run(plan.rate, stop))
    try:
        for worker in fleet.workers:
            worker.start()
        for worker in fleet.workers:
            await worker.ready()
        blows = await strike(fleet, plan.kinds, plan.pause_s)
        stop.set()
        fleet.notes += await _quiet(settings, client, traffic)
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)
        exits = await _stop(fleet)
    evidence = await collect(settings, PARTITIONS)
    found = [*violations(evidence), *_suspects(exits, plan)]
    recovered = [recovery(evidence, blow, blows) for blow in blows]
    seconds = time.monotonic() - began
    return Result(plan, evidence, found, blows, recovered, exits, client.sent, fleet.notes, seconds)


async def _prepare(settings: Settings) -> None:
    await topics.create(settings, PARTITIONS)
    models = {name: json.dumps({"model": name, **fields}).encode() for name, fields in MODELS.items()}
    limits = {user: json.dumps({"limit_usd": limit}).encode() for user, limit in LIMITS_USD.items()}
    await publish(settings, settings.topic("models"), models)
    await publish(settings, settings.topic("budgets"), limits)


def _fleet(plan: Plan, settings: Settings, broker: LocalBroker, folder: Path, client: Client) -> Fleet:
    environment = {
        "PILOT_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "PILOT_TOPIC_PREFIX": settings.topic_prefix,
        "PILOT_DATA_DIR": str(settings.data_dir),
        "PILOT_BUDGET_WINDOW_S": str(settings.budget_window_s),
        "PILOT_SESSION_TIMEOUT_S": str(settings.session_timeout_s),
        "PILOT_PARK_S": str(settings.park_s),
        "PILOT_RESERVE": settings.reserve,
        "PILOT_STORE": settings.store,
    }
    prefix = settings.application_id
    names = [f"worker-{number}" for number in range(1, plan.workers + 1)]
    workers = [Supervised(name, environment, folder / f"{prefix}-{name}.log") for name in names]
    guest = Supervised("guest", environment, folder / f"{prefix}-guest.log")
    return Fleet(broker, workers, guest, random.Random(plan.seed), client.resend, plan.outage_s)


async def _quiet(settings: Settings, client: Client, traffic: asyncio.Task[None]) -> list[str]:
    """Wait until everything sent was processed and committed; what did not happen in time."""
    notes, deadline = [], time.monotonic() + QUIET_TIMEOUT_S
    done, _ = await asyncio.wait({traffic}, timeout=QUIET_TIMEOUT_S)
    if not done:
        notes.append(f"{client.unanswered} queries were not answered within {QUIET_TIMEOUT_S:.0f} s")
    else:
        traffic.result()
    while time.monotonic() < deadline:
        try:
            committed, ends = await progress(settings, PARTITIONS)
        except (OperationFailed, KafkaError):
            committed, ends = {}, {("", 0): 1}
        if committed == ends:
            return notes
        await asyncio.sleep(0.5)
    return [*notes, f"the group did not reach the end within {QUIET_TIMEOUT_S:.0f} s"]


async def _stop(fleet: Fleet) -> Counter[int]:
    everyone = [*fleet.workers, fleet.guest]
    running = [worker for worker in everyone if worker.kept]
    codes = await asyncio.gather(*(worker.stop() for worker in running))
    for worker, code in zip(running, codes, strict=True):
        if code != 0:
            fleet.notes.append(f"{worker.name} did not leave cleanly at the end: {code}")
    return Counter(code for worker in everyone for code in worker.exits)


def _suspects(exits: Counter[int], plan: Plan) -> list[str]:
    suspect = _SUSPECT_EXITS_WITHOUT_BROKER if {"broker", "outage", "full"} & set(plan.kinds) else _SUSPECT_EXITS
    return [f"{exits[code]} workers ended with exit code {code}" for code in sorted(suspect & exits.keys())]


def recovery(evidence: Evidence, blow: Blow, blows: Sequence[Blow]) -> Recovery | None:
    """Until the slowest partition decided a query that was asked after the blow; None: none was asked.

    Another blow may have taken the broker meanwhile.
    """
    at = blow.at * 1000
    asked: dict[int, int] = {}
    for record in evidence.queries:
        if record.timestamp > at and EXPECTED_CODE not in dict(record.headers):
            asked.setdefault(record.partition, record.offset)
    waits: dict[int, float] = {}
    for record in evidence.decisions:
        source = orjson.loads(record.value or b"{}")["source"]
        if record.partition in asked and source["offset"] >= asked[record.partition]:
            wait = (record.timestamp - at) / 1000
            waits[record.partition] = min(waits.get(record.partition, wait), wait)
    if not waits:
        return None
    seconds = max(waits.values())
    gone = [(each.at, each.broker_back) for each in blows if each.broker_back is not None]
    end = blow.at + seconds
    return Recovery(seconds, sum(max(min(back, end) - max(left, blow.at), 0.0) for left, back in gone))
