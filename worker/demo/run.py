"""The demo from nothing to report; whatever it started is stopped, whichever way it ends."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError
from rich.console import Console

from worker.demo import caller, data, plan, prepare, progress, report, results, summary, verify, warmup
from worker.demo.caller import Script
from worker.demo.interrupts import sigterm_interrupts, uninterrupted
from worker.demo.prepare import Deployment, Prepared
from worker.demo.supervise import Fleet, connection_environment
from worker.demo.tally import Tally
from worker.demo.wire import Wire
from worker.errors import OperationFailed
from worker.kafka import local
from worker.kafka.rights import DEMO_PREFIX

WORKERS = 2
DEAD_LETTER_SLACK_S = 15.0  # on top of the parking time of feedback that belongs to no query
LEARNED_TIMEOUT_S = 20.0
INTO_WINDOW_S = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; None: all prior rows, a local broker of the demo's own."""

    queries: int
    users: int
    prior_rows: int | None
    policy: str | None
    preset: str | None
    bootstrap: str | None
    keep: bool
    folder: Path


def run(options: Options, console: Console) -> None:
    """Set up, stream, stop, report.

    Raises:
        UsageError: the demo's data or the settings cannot be used.
        OperationFailed: something did not start, ended early, or came out wrong.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after everything was stopped.
    """
    demo, stack = _Demo(options, console), ExitStack()
    with sigterm_interrupts():
        try:
            learned = demo.play(stack)
        finally:
            with uninterrupted(), progress.step(console, "stopping what was started"):
                stack.close()
    demo.report(learned)


class _Demo:
    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        self._dataset = data.load(options.prior_rows)
        budgets = plan.PAPER_BUDGETS if options.preset == prepare.PAPER else 1.0
        self._plan = plan.draw(self._dataset, options.queries, options.users, budgets)
        self._tally = Tally(self._dataset)
        self._deployment = Deployment(
            bootstrap=options.bootstrap or "",
            # A broker of one's own may hold other demos: each gets topics and a group of its own.
            prefix=f"{DEMO_PREFIX}{secrets.token_hex(4)}." if options.bootstrap else "pilot-demo.",
            folder=options.folder,
            policy=options.policy,
            preset=options.preset,
            connection=connection_environment() if options.bootstrap else {},
        )
        self._fleet = Fleet(options.folder)

    def play(self, stack: ExitStack) -> list[dict[str, Any]]:
        """Everything up to the last dead letter; `stack` gets what undoes it. Returns what was learned."""
        self._console.print(
            f"PILOT demo: {self._options.queries:,} real prompts of {self._options.users} users; "
            f"files in {self._options.folder}",
            highlight=False,
            soft_wrap=True,
        )
        self._reach_broker(stack)
        with self._step("topics, models, budgets"):
            prepare.create_topics(self._deployment, self._dataset, self._plan.limits_usd)
        with self._step(f"prior from {len(self._dataset.prior.prompts):,} other prompts") as say:
            prepared = prepare.build_prior(self._deployment, self._dataset, self._plan, say)
        self._plan = self._plan.paced_for(prepared.texts_per_s)
        stack.callback(self._fleet.stop)
        opens_at = self._start_workers(prepared)
        asyncio.run(self._stream(prepared.embeddings, opens_at))
        return self._learned()

    def report(self, learned: Sequence[dict[str, Any]]) -> None:
        """Print and write the results, the sentence first; then say what came out wrong, if anything."""
        if not self._tally.answers:
            raise OperationFailed(f"no decision came back: see the workers' logs in {self._options.folder}")
        preset = f", preset {self._options.preset}" if self._options.preset else ""
        found = results.evaluate(self._tally, self._plan, self._tally.policy + preset)
        tables = summary.sections(found, self._tally, self._fleet.workers, learned)
        self._console.print(f"\n[bold]{found.sentence}[/bold]\n", highlight=False, soft_wrap=True)
        for table in tables:
            summary.show(self._console, table)
        path = self._options.folder / "report.html"
        report.write(path, found, self._plan, tables, self._dataset.names)
        self._console.print(f"report: {path}", highlight=False, soft_wrap=True)
        if self._options.keep:
            warnings.simplefilter("ignore", ResourceWarning)  # the broker is meant to outlive this process
            self._console.print(self._way_around(), highlight=False, soft_wrap=True)
        self._require_as_promised(learned)

    def _step(self, title: str) -> Any:
        return progress.step(self._console, title)

    def _reach_broker(self, stack: ExitStack) -> None:
        if not self._options.keep:
            stack.callback(shutil.rmtree, self._options.folder / "state", ignore_errors=True)
        if self._options.bootstrap is not None:
            if not self._options.keep:
                stack.callback(prepare.drop_topics, self._deployment)
            return
        if not self._options.keep:
            stack.callback(shutil.rmtree, self._broker_dir, ignore_errors=True)
            stack.callback(local.stop, self._broker_dir)
        with self._step("local Kafka"):
            self._deployment.bootstrap = local.start(0, self._broker_dir)

    @property
    def _broker_dir(self) -> Path:
        return self._options.folder / "kafka"

    def _start_workers(self, prepared: Prepared) -> int:
        opens_at = prepared.opening()
        self._fleet.environment = self._deployment.worker_environment(self._plan, opens_at)
        with self._step(f"{WORKERS} workers") as say:
            self._fleet.start(WORKERS)
            asyncio.run(self._fleet.wait_until_ready(say))
        with self._step("first texts, which load the encoder"):
            asyncio.run(warmup.first_texts(self._deployment.settings))
        return opens_at

    async def _stream(self, embeddings: Mapping[int, Sequence[float]], opens_at: int) -> None:
        script = Script(self._plan, embeddings, self._dataset.names[plan.middle_model(self._dataset)])
        try:
            async with Wire(self._deployment.settings) as wire, asyncio.TaskGroup() as group:
                watching = group.create_task(self._fleet.watch())
                with self._step("waiting for the budget window to open"):
                    await asyncio.sleep(prepare.next_opening(opens_at, self._plan.window_s) + INTO_WINDOW_S)
                self._console.print(f"  streaming, planned to last {self._plan.duration_s:.0f} s", highlight=False)
                showing = group.create_task(progress.show(self._console, self._tally, self._options.queries))
                await caller.play(wire, script, self._tally, prepare.park_s(self._plan) + DEAD_LETTER_SLACK_S)
                watching.cancel()
                showing.cancel()
        except BaseExceptionGroup as several:
            first = _innermost(several)
            if isinstance(first, KafkaError):
                raise OperationFailed(f"Kafka at {self._deployment.bootstrap}: {first!r}") from first
            raise first from None

    def _learned(self) -> list[dict[str, Any]]:
        """What the workers learned; the last lessons reach the log a moment after the last feedback."""
        deadline = time.monotonic() + LEARNED_TIMEOUT_S
        while True:
            learned = prepare.learned(self._deployment)
            lessons = verify.total(
                learned, "costs_settled" if self._options.preset == prepare.PAPER else "observations"
            )
            if lessons >= verify.routed(self._tally) or time.monotonic() > deadline:
                return learned

    def _require_as_promised(self, learned: Sequence[dict[str, Any]]) -> None:
        wrong = verify.problems(self._tally, self._plan, learned, all_learn=self._options.preset != prepare.PAPER)
        if wrong:
            raise OperationFailed(f"not as the contract says: {'; '.join(wrong)}; logs in {self._options.folder}")

    def _way_around(self) -> str:
        where = self._deployment
        lines = [
            "kept running; to look around:",
            f"  export PILOT_BOOTSTRAP_SERVERS={where.bootstrap} PILOT_TOPIC_PREFIX={where.prefix}",
            f"  export PILOT_PRIOR={where.prior}",  # the fingerprint whose lessons are listed
            "  pilot models list; pilot budgets list; pilot dead-letters list; pilot topics check",
        ]
        if self._options.bootstrap is None:
            lines.append(f"  pilot kafka stop --data-dir {self._broker_dir}   # when done")
        return "\n".join(lines)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
