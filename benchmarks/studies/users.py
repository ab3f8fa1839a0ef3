"""Many users: feedback that is late for some of them, and rates that change from window to window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from studies.stage import Stage
from worker.core.verdict import Account, FloatArray, Verdict
from worker.evaluate.experiment import Run
from worker.evaluate.replay import Replay, _Due, _Purse
from worker.evaluate.traffic import Crowd, Traffic, crowd_traffic

USERS, QUERIES, DELAY = 200, 8_000, 1_000
JUMP = 0.5  # standard deviation of the log of a user's rate between windows
WINDOWS = 5


class PartlyLate(Replay):
    """Feedback of every `every`-th user comes late, that of the others at once."""

    every = 2

    def _decide(self, query_id: str, user_id: str, row: int, account: Account) -> Verdict:
        self._late = int(user_id) % self.every == 0
        return super()._decide(query_id, user_id, row, account)

    def _call(self, row: int, purse: _Purse, verdict: Verdict) -> _Due | None:
        feedback = super()._call(row, purse, verdict)
        if self._late:
            return feedback
        self._settle(feedback)
        return None


def late(stage: Stage) -> Iterator[Run]:
    """One window of 200 users, feedback of none, half or all of them 1,000 queries late."""
    warm, cold = stage.warm(), stage.priced()
    traffic = crowd_traffic(stage.split.test, Crowd(USERS, QUERIES), stage.generator(9))
    for name, delay, every in (("nobody late", 0, 1), ("every other user late", DELAY, 2), ("all late", DELAY, 1)):
        for known, prior in (("warm, frozen", warm), ("no prior", cold)):
            router = stage.router(prior, open_decisions=known == "no prior")
            if prior is warm:
                router.freeze()
            kind = type("_PartlyLate", (PartlyLate,), {"every": every})
            replay = kind(router, stage.table, stage.contexts(prior), delay=delay, learn=prior is cold)
            task = stage.task(traffic)
            yield stage.run(f"{name}: {known}", task, replay.run(traffic, task.allowed_usd, stage.seed))


def jumps(stage: Stage) -> Iterator[Run]:
    """Five windows of 200 users whose rates stay, or are drawn anew around their own in each window."""
    warm = stage.warm()
    contexts = stage.contexts(warm)
    for name, spread in (("rates stay", 0.0), ("rates change", JUMP)):
        known = _changing(stage, spread)
        for horizon, traffic in (("known", known), ("learned", replace(known, left=np.full(len(known.rows), np.nan)))):
            yield stage.frozen(f"{name}, horizon {horizon}", stage.router(warm), contexts, stage.task(traffic))


def _changing(stage: Stage, spread: float) -> Traffic:
    """Windows one after another, a user's rate times its own log-normal factor in each; budgets as for steady rates."""
    generator = stage.generator(10)
    steady = crowd_traffic(stage.split.test, Crowd(USERS, QUERIES, WINDOWS), generator)
    users = np.concatenate([_asking(steady.expected, spread, generator) for _ in range(WINDOWS)])
    return replace(steady, users=users, left=_still_to_come(users, steady.windows))


def _asking(expected: FloatArray, spread: float, generator: np.random.Generator) -> np.ndarray:
    rates = expected * np.exp(spread * generator.standard_normal(USERS))
    return generator.choice(USERS, QUERIES, p=rates / rates.sum())


def _still_to_come(users: np.ndarray, windows: np.ndarray) -> FloatArray:
    """Queries that the same user still sends in the same window, this one included."""
    left, seen = np.empty(len(users)), np.zeros((WINDOWS, USERS))
    for index in range(len(users) - 1, -1, -1):
        seen[windows[index], users[index]] += 1
        left[index] = seen[windows[index], users[index]]
    return left
