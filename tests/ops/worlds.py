"""Workers to look at, without Kafka: the real metrics, status and HTTP server over made-up traffic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from worker.observe import records as r
from worker.observe.health import HealthServer, Page
from worker.observe.history import STEP_S
from worker.observe.last_exit import LastExit
from worker.observe.prometheus import CONTENT_TYPE, PrometheusObserver
from worker.observe.status import Status, page
from worker.observe.vitals import About, ArmVitals, BudgetUse, UserBudget, Vitals

NOW = 1_764_000_000.0
WINDOW_S = 86_400
ABOUT = About("router-0", "pilot", "0.1.0", "pacing", "default", "quantile", "a3f9c02e11d4", NOW - 9_300)
NANOS = 1_000_000_000
NAMES = (
    "gpt-4-1106-preview", "claude-v2", "mixtral-8x7b-chat", "gpt-3.5-turbo-1106", "llama-2-70b-chat", "mistral-7b-chat",
    "yi-34b-chat", "wizardlm-13b-v1.2", "code-llama-34b", "claude-instant-v1",
)  # fmt: skip


class World:
    """One worker: what it has observed, its vitals, its health, and a clock that only moves when told."""

    def __init__(self, vitals: Vitals, last_exit: LastExit | None = None) -> None:
        self.now = NOW - 600.0
        self.vitals = vitals
        self.not_live: list[str] = []
        self.not_ready: list[str] = []
        self.metrics = PrometheusObserver()
        self.metrics.introduce(ABOUT, last_exit)
        self.metrics.watch(lambda: self.vitals)
        self.status = Status(
            self.metrics, lambda: self.vitals, live=lambda: self.not_live, ready=lambda: self.not_ready, about=ABOUT,
            last_exit=last_exit, clock=lambda: self.now,
        )  # fmt: skip

    def step(self, *observed: r.Record) -> None:
        """Five seconds in which this was observed."""
        for record in observed:
            self.metrics.observe(record)
        self.now += STEP_S
        self.status.sample()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Its address, while it answers."""
        pages = {
            "/": Page("text/html; charset=utf-8", page),
            "/status.json": Page("application/json", self.status.document),
            "/metrics": Page(CONTENT_TYPE, self.metrics.exposition),
        }
        with HealthServer(
            "127.0.0.1", 0, live=lambda: self.not_live, ready=lambda: self.not_ready, pages=pages
        ) as server:
            yield f"http://127.0.0.1:{server.port}"


def empty() -> World:
    """A worker that has just started: no model, no table recovered, nothing seen."""
    world = World(Vitals(BudgetUse(NOW - 30_000, WINDOW_S, 0.35), recovery_remaining=48_210))
    world.not_ready = [
        "tables are recovering: 48210 records to go",
        "pilot.models is still being read: 3 records to go",
        "no model is known: run `pilot models apply`",
    ]
    return world


def arms(count: int) -> tuple[ArmVitals, ...]:
    """A catalog with prices over two orders of magnitude; the last model is switched off."""
    names = [
        *NAMES,
        *(f"provider-{number:02d}/model-{number * 7}b-instruct-2026-{number:02d}" for number in range(count)),
    ]
    made = []
    for number, name in enumerate(names[:count]):
        price = 10 * 0.72**number
        expected = 0.86 - 0.02 * number + 0.015 * math.sin(5 * number)
        made.append(ArmVitals(name, True, price, 3 * price, 0.0, expected, 0.02 + 0.004 * number, price * 6e-4))
    made[-1] = replace(made[-1], enabled=False, expected_reward=None, uncertainty=None, expected_cost_usd=None)
    return tuple(made)


def users(count: int) -> tuple[UserBudget, ...]:
    """The fullest users, some beyond their limit."""
    shares = [max(0.06, 1.04 - 0.055 * number) for number in range(count)]
    names = [f"team-{number:03d}" for number in range(count)]
    return tuple(
        UserBudget(name, 5 * NANOS, int(share * 4.6 * NANOS), int(share * 0.4 * NANOS))
        for name, share in zip(names, shares, strict=True)
    )


def busy(models: int = 6, *, steps: int = 120, seed: int = 3) -> World:
    """A worker under an hour's changing load."""
    fullest = users(20)
    budgets = BudgetUse(
        NOW - 40_000, WINDOW_S, 40_000 / WINDOW_S, users=1_284, over_80=5, exhausted=2, limit=6_420 * NANOS,
        settled=2_790 * NANOS, reserved=64 * NANOS, fullest=fullest,
    )  # fmt: skip
    tables = {"pending": 182_233, "spend": 2_310, "arms": models * 4}
    last = LastExit(
        71, "stalled", "watchdog: pilot.queries/2 stands at 11 of 15 and has not moved for 10 s", NOW - 9_310
    )
    world = World(Vitals(budgets, arms(models), tables, replica_shards=models * 4), last)
    random = np.random.default_rng(seed)
    for step in range(steps):
        world.step(*_traffic(world, random, step), *_lags(step))
    return world


def _traffic(world: World, random: np.random.Generator, step: int) -> list[r.Record]:
    enabled = [arm for arm in world.vitals.arms if arm.enabled]
    weight = np.array([1 / (1 + (number - 2 - step / 60) ** 2) for number in range(len(enabled))])
    found: list[r.Record] = []
    for chosen in random.choice(len(enabled), size=int(60 + 40 * math.sin(step / 14)), p=weight / weight.sum()):
        arm = enabled[chosen]
        expected, cost = arm.expected_reward or 0.0, arm.expected_cost_usd or 0.0
        stages = r.Stages(*random.exponential((0.002, 0.008, 0.0004, 0.004)))
        found.append(
            r.DecisionSent(
                "pacing", "routed", arm.model, None, stages, int(cost * NANOS), int(6e-3 * NANOS), expected, 0.87,
                arm.uncertainty, random.random() < 0.04,
            )
        )  # fmt: skip
        if random.random() < 0.7:
            reward = float(random.random() < expected)
            found += [r.FeedbackArrived(float(random.exponential(3.0))), r.RewardGiven(arm.model, reward, expected)]
            spent = int(cost * NANOS * random.lognormal(0, 0.3))
            found.append(r.MoneySettled(arm.model, spent, int(cost * NANOS)))
    if step % 9 == 0:
        found.append(r.DecisionSent("pacing", "rejected", None, "budget_exhausted", r.Stages(0.002, 0.003, 0.0, 0.003)))
        found.append(r.CallFailed(enabled[1].model, "timeout"))
    if step == 40:
        found += [r.DeadLetterSent("queries", 0, 7, r.DeadLetterCode.INVALID_EVENT)]
    return [*found, *(r.ModelLearned(arm.model, 40 * step, 40 * step * (arm.expected_reward or 0)) for arm in enabled)]


def _lags(step: int) -> list[r.Record]:
    lags: list[r.Record] = [r.Committed(NOW - 600 + 5 * step)]
    for partition in range(4):
        lags.append(r.Lag("queries", partition, (step * 7 + partition * 3) % 11))
        lags.append(r.Lag("feedback", partition, (step + partition) % 3))
    return lags
