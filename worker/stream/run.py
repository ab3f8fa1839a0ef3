"""The worker process: checks before it starts, runs, drains on SIGTERM, and leaves with the right code."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Any, NoReturn

import structlog
from aiokafka.errors import KafkaConnectionError

from worker import routing
from worker.core.prior import Prior
from worker.errors import ExitCode, OperationFailed
from worker.kafka import connect, rights, topics
from worker.observe import Observers, tracing
from worker.observe.health import HealthServer, Page
from worker.observe.identity import disguise
from worker.observe.last_exit import ExitNote, LastExit
from worker.observe.logs import LEVELS, LogObserver, configure
from worker.observe.prometheus import CONTENT_TYPE, PrometheusObserver
from worker.observe.status import Status, page
from worker.observe.tracing import QueryTracer
from worker.observe.vitals import About
from worker.settings import Settings
from worker.stream import compat
from worker.stream.app import Worker, build
from worker.stream.exits import end, leave, remember, watched
from worker.stream.vitals import VitalSigns

logger = structlog.get_logger(__name__)

DRAIN_S = 6.0
STOP_S = 6.0  # together with the drain below the 15 s that supervisors wait at least
SWEEP_S = 1.0
GC_THRESHOLDS = (5_000, 20, 20)  # in place of 700, 10, 10: records make many objects and few cycles
CATCH_UP_S = 0.05  # 10,000 keys a second, more than are decided


def run(settings: Settings) -> NoReturn:
    """Run a worker until it is told to stop; the process ends here.

    Raises:
        UsageError, OperationFailed: before anything was started.
    """
    configure(settings.log_format, LEVELS[settings.log_level], users=settings.log_users)
    compat.check_versions()
    prior = routing.prior(settings)
    asyncio.run(_run_and_leave(settings, prior))
    raise AssertionError("unreachable: the process has left")


async def _run_and_leave(settings: Settings, prior: Prior) -> None:
    """Leave from within: without a broker some of Faust's tasks never end, and the loop would wait for them."""
    leave(await _main(settings, prior))


async def _main(settings: Settings, prior: Prior) -> ExitCode:
    stop = _Stop()
    partitions = await _until_stopped(_check_topics(settings), stop.told)
    if partitions is None:
        return stop.code
    metrics = PrometheusObserver()
    tracer = _tracer(settings)
    worker = build(settings, partitions, prior, Observers(metrics, LogObserver()), tracer)
    signs = VitalSigns(worker, settings)
    note = ExitNote(settings.worker_dir)
    last_exit = note.read()
    status = _status(settings, prior, worker, metrics, signs, last_exit=last_exit)
    server = _serve(settings, worker, metrics, status)
    _begin(note, last_exit)  # not before the port is ours: a worker of the same id may be running
    logger.info(
        "worker starting", worker=settings.effective_worker_id, group=settings.application_id, partitions=partitions,
        policy=settings.policy, window_s=settings.budget_window_s, http_port=server.port, fingerprint=prior.fingerprint,
    )  # fmt: skip
    services = [watched(name, work) for name, work in worker.lane_services().items()]
    services.append(watched("vitals", signs.run(status)))
    started = await _until_stopped(_start(worker), stop.told)
    if started is not None:
        _spare_pauses()
        guards = [watched("watchdog", worker.watchdog.run()), watched("sweeper", _sweep(worker))]
        guards.append(watched("readiness", _announce_ready(worker)))
        await stop.told.wait()
        await _drain(worker)
        for guard in guards:  # they would take the consumer's end for a failure
            guard.cancel()
    await _stop(worker)
    if tracer is not None:
        await asyncio.to_thread(tracer.close)
    del services
    return stop.code


def _tracer(settings: Settings) -> QueryTracer | None:
    if settings.tracing == "off":
        return None
    return tracing.otlp(settings.effective_worker_id, disguise(settings.log_users))


def _begin(note: ExitNote, last_exit: LastExit | None) -> None:
    if last_exit is not None:
        logger.info("last exit", code=last_exit.code, reason=last_exit.reason, detail=last_exit.detail)
    remember(note)


def _status(
    settings: Settings,
    prior: Prior,
    worker: Worker,
    metrics: PrometheusObserver,
    signs: VitalSigns,
    *,
    last_exit: LastExit | None,
) -> Status:
    about = About(
        worker_id=settings.effective_worker_id, group=settings.application_id, version=version("pilot-router"),
        policy=settings.policy, preset=settings.preset, reserve=settings.reserve, fingerprint=prior.fingerprint,
        started_at=time.time(),
    )  # fmt: skip
    metrics.introduce(about, last_exit)
    metrics.watch(signs.look)
    return Status(
        metrics, signs.look, live=worker.watchdog.complaints, ready=lambda: _unready(worker), about=about,
        last_exit=last_exit,
    )  # fmt: skip


def _serve(settings: Settings, worker: Worker, metrics: PrometheusObserver, status: Status) -> HealthServer:
    html = page()
    pages = {
        "/metrics": Page(CONTENT_TYPE, metrics.exposition),
        "/status.json": Page("application/json", status.document),
        "/": Page("text/html; charset=utf-8", lambda: html),
    }
    return HealthServer(
        settings.http_host, settings.http_port, live=worker.watchdog.complaints, ready=lambda: _unready(worker),
        pages=pages,
    )  # fmt: skip


class _Stop:
    """Both signals drain; a supervisor's SIGTERM is a success, Ctrl-C an interruption."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.code = ExitCode.OK
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._tell, ExitCode.OK)
        loop.add_signal_handler(signal.SIGINT, self._tell, ExitCode.INTERRUPTED)

    def _tell(self, code: ExitCode) -> None:
        self.code = code
        self.told.set()


async def _check_topics(settings: Settings) -> int:
    await connect.wait_for_broker(settings)
    await rights.require(settings, "worker")
    differences = await topics.check(settings)
    if differences:
        raise OperationFailed("the topics are not as needed: " + "; ".join(differences))
    return await topics.partition_count(settings)


async def _until_stopped(work: Coroutine[Any, Any, int], stop: asyncio.Event) -> int | None:
    """The result, or None if the process was told to stop first."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return await task
    task.cancel()
    return None


async def _start(worker: Worker) -> int:
    worker.app.in_worker = True
    worker.app.finalize()
    try:
        await worker.app.start()
    except KafkaConnectionError as error:
        end("start", OperationFailed(f"the broker went away while the worker started: {error}"))
    except Exception as error:  # noqa: BLE001 - half-started services would keep the process from ending
        end("start", error)
    return 1


def _spare_pauses() -> None:
    """Leave what exists from the start out of every collection, and collect young objects less often.

    A full collection of all modules stops the worker for some 80 ms, and a decision is due within 30.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _announce_ready(worker: Worker) -> None:
    began = time.monotonic()
    while reasons := _unready(worker):
        logger.info("not ready", reasons=reasons)
        await asyncio.sleep(1.0)
    logger.info("ready", after_s=round(time.monotonic() - began, 1))
    others = worker.tables.other_windows()
    if others:
        logger.warning("budget windows had another length or offset: the budgets began anew", windows=len(others))


def _unready(worker: Worker) -> list[str]:
    """Why the worker cannot do its work now; called from the HTTP threads."""
    reasons = worker.watchdog.outage()
    if not worker.recovered:
        reasons.append("tables are recovering" + _to_go(worker.recovery_remaining))
    reasons += [
        f"{follower.topic} is still being read{_to_go(follower.lag)}"
        for follower in worker.followers
        if not follower.caught_up.is_set()
    ]
    if not worker.catalog.arms:
        reasons.append("no model is known: run `pilot models apply`")
    return reasons


def _to_go(records: int) -> str:
    """How much is left, where that is known yet."""
    return f": {records} records to go" if records else ""


async def _sweep(worker: Worker) -> None:
    while True:
        await asyncio.sleep(CATCH_UP_S if worker.sweeper.behind else SWEEP_S)
        if worker.recovered and worker.tenure.enter_current() and worker.sweeper.sweep():
            worker.lane.touch(worker.tenure.assignment, worker.tenure.generation)


async def _drain(worker: Worker) -> None:
    """Finish what was admitted, acknowledge it, commit it."""
    logger.info("stopping: draining")
    worker.route.stopping = worker.settle.stopping = True
    try:
        async with asyncio.timeout(DRAIN_S):
            await worker.route.prepared()
            await worker.settle.prepared()
            await worker.lane.drained()
            await worker.consumer.commit()
    except TimeoutError:
        logger.warning("stopping before everything was acknowledged: it will be replayed")


async def _stop(worker: Worker) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await worker.app.stop()
    except TimeoutError:
        logger.warning("the application did not stop in time")
