"""Vitals of a running worker: what the status page and the gauges show, read from the parts that have it.

What belongs to the event loop is refreshed there, once a second or less; a request, which comes on
another thread, only reads what is there and sums it up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice

import structlog

from worker.core import ledger
from worker.core.arms import Arm
from worker.core.ledger import Spend
from worker.core.router import Outlook
from worker.observe.budgets import BudgetBook
from worker.observe.history import STEP_S
from worker.observe.status import Status
from worker.observe.vitals import ArmVitals, Vitals
from worker.settings import Settings
from worker.stream.app import Worker
from worker.stream.state import SpendKey

logger = structlog.get_logger(__name__)

REFRESH_S = 1.0
_STORED_PER_REFRESH = 500  # 5 ms of the event loop


class VitalSigns:
    """Looks at one worker."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self._worker = worker
        self._settings = settings
        self._book = BudgetBook(settings.budget_window_s)
        self._book.turn_to(self._current_window())
        self._seen_batch = 1
        self._stored: Iterator[tuple[SpendKey, int]] = iter(())
        self._arms: tuple[ArmVitals, ...] = ()
        worker.tenure.began.append(self._begin)

    def look(self) -> Vitals:
        """The vitals now; from any thread."""
        worker = self._worker
        return Vitals(
            budgets=self._book.use(time.time(), worker.budgets.limit_nanos),
            arms=self._arms,
            tables=worker.tables.sizes(),
            recovery_remaining=worker.recovery_remaining,
            replica_lag=worker.replica.follower.lag,
            replica_shards=worker.replica.shards,
        )

    async def run(self, status: Status) -> None:
        """Keep looking, and give the status a sample now and then. What fails here must not end the worker."""
        sampled = time.monotonic()
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                self._refresh_budgets()
                if time.monotonic() - sampled >= STEP_S:
                    sampled = time.monotonic()
                    self._arms = self._look_at_arms()
                    status.sample()
            except Exception:
                logger.exception("the vitals could not be refreshed")

    def _begin(self) -> None:
        """Other partitions, other users: begin with what the store has of them, a part a second."""
        self._book.clear()
        self._stored = iter(self._worker.sweeper.users_of(self._book.window).items())

    def _refresh_budgets(self) -> None:
        window = self._current_window()
        if window != self._book.window:
            self._book.turn_to(window)
            self._stored = iter(self._worker.sweeper.users_of(window).items())
        journal = self._worker.tenure.journal
        since, self._seen_batch = self._seen_batch, journal.batch.number
        for key, spend in journal.state.spend.written_since(since):
            self._note(key, spend)
        for key, partition in islice(self._stored, _STORED_PER_REFRESH):
            if key.user_id not in self._book:
                self._note(key, self._worker.tables.load_spend(partition, key))

    def _current_window(self) -> int:
        settings = self._settings
        return ledger.window_start(time.time(), settings.budget_window_s, settings.budget_window_offset_s)

    def _note(self, key: SpendKey, spend: Spend | None) -> None:
        if spend is not None and key.window == self._book.window and not key.length:
            self._book.note(key.user_id, spend.settled, spend.reserved)

    def _look_at_arms(self) -> tuple[ArmVitals, ...]:
        outlook = self._worker.router.outlook()
        return tuple(_arm(arm, outlook.get(arm.model)) for arm in self._worker.catalog.arms)


def _arm(arm: Arm, outlook: Outlook | None) -> ArmVitals:
    return ArmVitals(
        arm.model, arm.enabled, arm.input_usd_per_mtok, arm.output_usd_per_mtok, arm.request_usd,
        *(outlook or (None, None, None)),
    )  # fmt: skip
