"""Wiring: the Faust application, its tables and agents, and everything that serves them. Nothing else."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

import faust
import structlog
from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver

from worker import routing
from worker.core.prior import Prior
from worker.core.router import Router
from worker.encode import AsyncEncoder, CachedEncoder, SentenceEncoder
from worker.errors import ExitCode, UsageError, WorkerMustStop
from worker.kafka import connect, logs
from worker.kafka.compacted import Follower
from worker.kafka.control import Budgets, Catalog, followers
from worker.kafka.topics import TABLES
from worker.observe import records
from worker.observe.records import Observer
from worker.observe.tracing import QueryTracer
from worker.settings import Settings
from worker.stream import commits, compat, contiguity, drain, exits, fencing, watchdog
from worker.stream.commits import Consumer, ConsumerThread, Lease
from worker.stream.delivery import KafkaDelivery, Outgoing, Sent
from worker.stream.fencing import Claims
from worker.stream.healing import Healer
from worker.stream.intake import Intake
from worker.stream.lane import Lane
from worker.stream.progress import Progress
from worker.stream.replica import Replica
from worker.stream.route import RouteHandler
from worker.stream.settle import SettleHandler
from worker.stream.state import State
from worker.stream.store import MemoryStore, Store
from worker.stream.sweep import BrokerClock, Sweeper
from worker.stream.tables import Tables
from worker.stream.tenure import Tenure

COMMIT_INTERVAL_S = 0.5
MAX_BATCH_BYTES = 256 * 1024
# Above the largest record: a text of 400,000 characters, each escaped in JSON.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
# Above the longest broker outage to live through; a send that takes longer ends the process (exit 72).
SEND_TIMEOUT_S = 60.0
QUEUED_CHUNKS = 64  # of an agent; beyond about as many its partitions are not fetched
START_S = 120.0  # until the control topics are read; and the first text loads the encoder

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Worker:
    """The parts of one worker process that its runner starts, watches and stops."""

    app: faust.App
    lane: Lane
    route: Intake[Any]
    settle: Intake[Any]
    tenure: Tenure
    sweeper: Sweeper
    tables: Tables
    watchdog: watchdog.Watchdog
    replica: Replica
    claims: Claims
    followers: tuple[Follower, ...]
    catalog: Catalog
    budgets: Budgets
    router: Router
    encoder: AsyncEncoder
    gate: asyncio.Event

    @property
    def consumer(self) -> Consumer:
        """Faust's consumer, which is ours; exists once the app has started."""
        consumer: Consumer = self.app.consumer
        return consumer

    @property
    def recovered(self) -> bool:
        """Whether all tables are recovered and no rebalance is under way."""
        return bool(self.app.tables.actives_ready) and not self.app.rebalancing

    @property
    def recovery_remaining(self) -> int:
        """Changelog records that this worker still has to read before its tables are complete. Any thread."""
        # Not `recovery`: that would make the service on the asking thread, and it would never start.
        recovery = self.app.tables._recovery  # noqa: SLF001
        if self.recovered or recovery is None:
            return 0
        ends, offsets = dict(recovery.active_highwaters), dict(recovery.active_offsets)
        return sum(max(0, end - (offsets.get(tp) or 0)) for tp, end in ends.items() if end is not None)

    async def _open_gate(self) -> None:
        """Let the agents begin once models, budgets and the replica are read to their ends."""
        for follower in self.followers:
            await follower.caught_up.wait()
        self.replica.hand_over()
        self.gate.set()

    async def _pulse(self) -> None:
        """Pauses count from the first event on; a slow start is none."""
        await self.gate.wait()
        await self.watchdog.run_pulse()

    def lane_services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What must run before the first event arrives."""
        return {
            "gate": self._open_gate(),
            "pulse": self._pulse(),
            "flusher": self.lane.run_flusher(),
            "pending stage": self.lane.run_stage(0),
            "effects stage": self.lane.run_stage(1),
            "finisher": self.lane.run_finisher(),
            "prepared queries": self.route.run_prepared(),
            "prepared feedback": self.settle.run_prepared(),
            "replica": self.replica.run(),
            "claims": self.claims.run_renewal(),
            **{f"follower of {follower.topic}": follower.run() for follower in self.followers},
        }


def build(
    settings: Settings, partitions: int, prior: Prior, observer: Observer, tracer: QueryTracer | None = None
) -> Worker:
    """Everything of one worker, not yet started. Once per process: it installs hooks.

    Raises:
        UsageError: the encoder is not the one that the prior was fitted with, or the store is not installed.
    """
    sources = frozenset((settings.topic("queries"), settings.topic("feedback")))
    lease = Lease(settings.session_timeout_s)
    compat.install()
    contiguity.install(sources)
    fencing.install()
    driver.Producer._settings_extra = lambda _: {"enable_idempotence": True, "acks": "all"}  # noqa: SLF001 - no setting
    app = _faust_app(settings, partitions)
    tables = Tables(app, settings, partitions, _store(settings))
    clock = BrokerClock()
    delivery = _LateDelivery(app, clock)

    def thread() -> ConsumerThread:
        found: ConsumerThread = app.consumer._thread  # noqa: SLF001 - our own subclass
        return found

    claims = Claims(
        settings, tables.claim_keys, delivery, lambda: thread().active_assignment is not None and lease.held
    )

    async def take_over(found: Iterable[Any]) -> None:
        await claims.claim(found)
        held = {tp.partition for tp in found if tp.topic in tables.claim_keys}
        behind = tables.take_over(await logs.look(settings, tables.topics, held))
        logger.info("partitions taken over", partitions=sorted(held), records_to_read=behind)

    commits.install(lease, _on_assignment(settings, partitions, take_over), tables.restore)

    tenure = Tenure(lease, thread, lambda: State(tables.load_pending, tables.load_spend, tables.load_shard))
    lane = Lane(tenure.journal, tables, delivery, tenure)
    # What the best model would have cost is counted from the candidates, told or not.
    options = replace(routing.options(settings), detail="full")
    router = Router(prior, options)
    tenure.began.append(lambda: router.serve(tenure.lanes(settings.topic("queries")) / partitions))

    def on_bad(topic: str, offset: int, reason: str) -> None:
        observer.observe(records.ControlRecordSkipped(topic, offset, reason))

    catalog = Catalog(on_change=lambda: router.set_arms(catalog.arms), on_bad=on_bad)
    budgets = Budgets(on_bad=on_bad)
    replica = Replica(settings, prior.fingerprint, router.refresh, observer)
    encoder = _encoder(settings, prior, observer)
    progress = Progress()
    sweeper = Sweeper(
        settings=settings, partitions=partitions, tenure=tenure, tables=tables,
        committed=progress.committed, clock=clock,
        observer=observer,
    )  # fmt: skip
    query_handler = RouteHandler(
        settings=settings, partitions=partitions, tenure=tenure, sweeper=sweeper, router=router,
        projection=prior.projection, encoder=encoder, catalog=catalog, budgets=budgets,
        learning_share=options.learning_share, observer=observer, tracer=tracer,
    )  # fmt: skip
    feedback_handler = SettleHandler(
        settings=settings, partitions=partitions, tenure=tenure, sweeper=sweeper, catalog=catalog,
        learning_share=options.learning_share, observer=observer,
    )  # fmt: skip
    gate = asyncio.Event()
    route: Intake[Any] = Intake(tenure, lane, gate, query_handler.prepare_many, query_handler.handle_many)
    settle: Intake[Any] = Intake(tenure, lane, gate, feedback_handler.prepare_many, feedback_handler.handle_many)
    intakes = {settings.topic("queries"): route, settings.topic("feedback"): settle}
    guard = _watchdog(settings, app, intakes, encoder, progress=progress, observer=observer)
    tenure.check_pause = guard.check_pause
    for topic, intake in intakes.items():
        _agent(app, settings, topic, partitions, intake)
    control = followers(settings, catalog, budgets)
    return Worker(
        app,
        lane,
        route,
        settle,
        tenure,
        sweeper,
        tables,
        guard,
        replica,
        claims,
        (*control, replica.follower),
        catalog,
        budgets,
        router,
        encoder,
        gate,
    )


class _LateDelivery:
    """Delivery through Faust's producer, which exists only once the app has started."""

    def __init__(self, app: faust.App, clock: BrokerClock) -> None:
        self._app = app
        self._clock = clock

    async def send(self, topic: str, partition: int, outgoing: Any) -> list[Sent]:
        """See `worker.stream.delivery.Delivery`."""
        records_: list[Outgoing] = outgoing
        port = KafkaDelivery(self._app.producer._producer, self._clock.now_ms)  # noqa: SLF001
        return await port.send(topic, partition, records_)


def _faust_app(settings: Settings, partitions: int) -> faust.App:
    folder = settings.worker_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"PILOT_DATA_DIR={settings.data_dir}: {error.strerror}; choose a folder to write in") from None
    brokers = ";".join(f"kafka://{server.strip()}" for server in settings.bootstrap_servers.split(","))
    session = settings.session_timeout_s
    return faust.App(
        settings.application_id,
        broker=brokers,
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=str(folder),
        processing_guarantee="at_least_once",
        topic_partitions=partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,  # they exist, and a worker need not have the right to create them
        table_standby_replicas=0,
        stream_wait_empty=True,
        stream_buffer_maxsize=QUEUED_CHUNKS,
        broker_max_poll_records=drain.POLL,
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_commit_every=10**9,  # only the timer commits
        broker_session_timeout=session,
        broker_heartbeat_interval=min(3.0, session / 4),
        broker_rebalance_timeout=max(session, 30.0),
        producer_linger=0,  # our own batches; a linger would delay every stage
        producer_max_batch_size=MAX_BATCH_BYTES,
        producer_max_request_size=MAX_REQUEST_BYTES,
        producer_request_timeout=SEND_TIMEOUT_S,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.effective_worker_id,
        web_enabled=False,
    )


def _credentials(settings: Settings) -> Credentials | None:
    """What `connect.client_arguments` says, in Faust's words."""
    arguments = connect.client_arguments(settings)
    context = arguments["ssl_context"]
    if "sasl_oauth_token_provider" in arguments:
        return OAuthCredentials(oauth_cb=arguments["sasl_oauth_token_provider"], ssl_context=context)
    if "sasl_mechanism" in arguments:
        return SASLCredentials(
            username=arguments["sasl_plain_username"],
            password=arguments["sasl_plain_password"],
            mechanism=arguments["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def _agent(app: faust.App, settings: Settings, topic: str, partitions: int, intake: Intake[Any]) -> None:
    source = app.topic(
        topic, partitions=partitions, internal=True, key_type=bytes, value_type=bytes,
        key_serializer="raw", value_serializer="raw",
    )  # fmt: skip
    app.agent(source, name=f"{settings.application_id}.{topic}", concurrency=1)(exits.guarded(topic, intake.run))


def _encoder(settings: Settings, prior: Prior, observer: Observer) -> AsyncEncoder:
    encoder = SentenceEncoder(settings.encoder, settings.embedding_dim)
    routing.require_encoder(settings, prior, encoder.identity)
    return AsyncEncoder(CachedEncoder(encoder, observer=observer))


def _watchdog(
    settings: Settings,
    app: faust.App,
    intakes: dict[str, Intake[Any]],
    encoder: AsyncEncoder,
    *,
    progress: Progress,
    observer: Observer,
) -> watchdog.Watchdog:
    def waiting() -> bool:
        return encoder.loading or not all(intake.open for intake in intakes.values())

    def recovered() -> bool:
        return bool(app.tables.actives_ready)

    def flowing() -> bool:
        return recovered() and not app.rebalancing and app.flow_control.is_active()

    healer = Healer(lambda: app.consumer, intakes, settings.topic_prefix, observer)
    return watchdog.Watchdog(
        consumer=lambda: app.consumer,
        recovered=recovered,
        flowing=flowing,
        healer=healer,
        progress=progress,
        sources=frozenset(intakes),
        prefix=settings.topic_prefix,
        session_timeout_s=settings.session_timeout_s,
        stall_s=_patience(waiting),
        observer=observer,
    )


def _patience(waiting: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """How long a partition may stand still, in seconds: longer until what it waited for has come and it could move."""
    waited_at = -math.inf

    def stall_s() -> float:
        nonlocal waited_at
        if waiting():
            waited_at = clock()
        return START_S if clock() - waited_at < watchdog.STALL_S else watchdog.STALL_S

    return stall_s


def _store(settings: Settings) -> Store:
    if settings.store == "memory":
        return MemoryStore(TABLES)
    try:
        from worker.stream.rocks import RocksStore
    except ImportError:
        message = "PILOT_STORE=rocksdb needs the package rocksdict: pip install 'pilot-router[rocksdb]'"
        raise UsageError(message) from None
    return RocksStore(settings.worker_dir / "store", TABLES)


def _on_assignment(
    settings: Settings, partitions: int, take_over: Callable[[Iterable[Any]], Coroutine[Any, Any, None]]
) -> Callable[[Iterable[Any]], Awaitable[None]]:
    """What happens on the consumer thread before anything of a new assignment is read; Faust would only log errors."""
    loop = asyncio.get_running_loop()  # where the producer lives

    async def assigned(found: Iterable[Any]) -> None:
        _check_copartitioning(found, settings, partitions)
        try:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(take_over(found), loop))
        except Exception as error:  # noqa: BLE001 - nothing may be written without the claim
            exits.end("claim", error)

    return assigned


def _check_copartitioning(assigned: Any, settings: Settings, partitions: int) -> None:
    """Both sources and all changelogs of a partition number must lie on one worker.

    Ends the process (exit 74) from the consumer thread, whose exceptions Faust would
    only log. Operator action: `pilot topics check`, and one version of the worker only.
    """
    by_topic: dict[str, set[int]] = {}
    for tp in assigned:
        by_topic.setdefault(tp.topic, set()).add(tp.partition)
    if len({frozenset(numbers) for numbers in by_topic.values()}) > 1:
        shown = {topic: sorted(numbers) for topic, numbers in sorted(by_topic.items())}
        message = f"{settings.application_id}: topics of {partitions} partitions are split: {shown}"
        exits.end("assignment", WorkerMustStop(ExitCode.STATE_BROKEN, message))
