"""What a contract test needs: a worker as its own process, and an outside program that speaks to it over Kafka."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from worker.kafka import connect, local, topics
from worker.kafka.listing import budgets_with_spend, models_with_learning
from worker.settings import Settings

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes | None]]
Row = dict[str, Any]

PATIENCE_S = 30.0
READY_S = 90.0
STOP_S = 20.0
LARGEST_FETCH = 16 * 1024 * 1024
NOBODY = "a model that nobody has"
ENCODER_LOADING = "the encoder is loading"
EMBEDDING = [round(float(x), 6) for x in np.random.default_rng(7).standard_normal(384)]
_POLL_S = 0.02


def until(condition: Callable[[], T], what: str = "", patience_s: float = PATIENCE_S) -> T:
    """Wait until the condition's value is true; that value."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what or condition} did not come within {patience_s} s"
        time.sleep(_POLL_S)


def unique(name: str) -> str:
    """An id that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a record lies; the timestamp is the broker's, in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None

    @property
    def place(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


class Client:
    """Produces queries, feedback and control records; reads every decision and dead letter from the beginning.

    Its Kafka clients live on a thread of their own, so that one client serves many tests.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._decisions: defaultdict[str, list[ConsumerRecord]] = defaultdict(list)
        self._letters: defaultdict[tuple[str, int, int], list[ConsumerRecord]] = defaultdict(list)
        self._queries: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client", daemon=True)
        self._thread.start()
        self.run(self._start())

    def close(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something with Kafka on the client's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Sent:
        """Write one record to a public topic, on the partition that the key belongs to unless told otherwise."""
        name = self.settings.topic(topic)
        sent = self.run(self._producer.send_and_wait(name, value, key, partition, headers=list(headers)))
        return Sent(name, sent.partition, sent.offset, sent.timestamp, value)

    def query(self, user: str, query_id: str | None = None, headers: Headers = (), **fields: Any) -> tuple[str, Sent]:
        """Write a query, with an embedding unless there is a text; its id and where it lies."""
        query_id = query_id or unique("q")
        content = {"query_id": query_id, "user_id": user, **fields}
        if "text" not in fields:
            content.setdefault("embedding", EMBEDDING)
        return query_id, self.send("queries", user.encode(), json.dumps(content).encode(), headers)

    def decisions(self, query_id: str, count: int = 1) -> list[ConsumerRecord]:
        """The records of a query's decision, at least so many."""
        return until(
            lambda: list(self._decisions[query_id]) if len(self._decisions[query_id]) >= count else None,
            f"decision {count} of {query_id}",
        )

    def seen(self, query_id: str) -> list[ConsumerRecord]:
        """The records of a query's decision that came so far."""
        return list(self._decisions[query_id])

    def decide(self, user: str, query_id: str | None = None, **fields: Any) -> Row:
        """Write a query and read its decision."""
        query_id, _ = self.query(user, query_id, **fields)
        decision: Row = json.loads(self.decisions(query_id)[0].value)
        return decision

    def route(self, user: str, model: str, **fields: Any) -> str:
        """Have a query routed to this very model; its id."""
        decision = self.decide(user, models=[model], **fields)
        assert decision["model"] == model, decision
        query_id: str = decision["query_id"]
        return query_id

    def account(self, user: str) -> Row | None:
        """The user's budget as a decision shows it that reserves nothing."""
        budget: Row | None = self.decide(user, models=[NOBODY])["budget"]
        return budget

    def feedback(self, user: str, query_id: str, **fields: Any) -> Sent:
        """Write a feedback record."""
        content = {"query_id": query_id, "user_id": user, **fields}
        return self.send("feedback", user.encode(), json.dumps(content).encode())

    def settle(self, user: str, query_id: str, **fields: Any) -> Sent:
        """Write a feedback record and wait until everything that follows from it is written and committed."""
        sent = self.feedback(user, query_id, **fields)
        self.committed(sent)
        return sent

    def committed(self, sent: Sent) -> None:
        """Wait until the worker has committed beyond a record: its effects are all acknowledged."""
        tp = TopicPartition(sent.topic, sent.partition)
        until(lambda: self.run(self._committed(tp)) > sent.offset, f"commit of {sent.place}")

    def letters(self, sent: Sent, count: int = 1) -> list[ConsumerRecord]:
        """The dead letters of a source record, at least so many."""
        return until(
            lambda: list(self._letters[sent.place]) if len(self._letters[sent.place]) >= count else None,
            f"dead letter of {sent.place}",
        )

    def set_aside(self, sent: Sent) -> list[ConsumerRecord]:
        """The dead letters of a source record that came so far."""
        return list(self._letters[sent.place])

    def code(self, sent: Sent) -> str:
        """The code of a source record's only dead letter."""
        (letter,) = self.letters(sent)
        return dict(letter.headers)["pilot.error.code"].decode()

    def model(self, name: str, input_usd: float = 1.0, output_usd: float = 1.0, **fields: Any) -> None:
        """Write a model record; prices in USD per million tokens."""
        content = {"model": name, "input_usd_per_mtok": input_usd, "output_usd_per_mtok": output_usd, **fields}
        self.send("models", name.encode(), json.dumps(content).encode())

    def limit(self, user: str, usd: float | None, *, expect: float | None = None) -> str:
        """Write a user's budget record (None: remove it) and wait until the worker goes by it; the user."""
        value = None if usd is None else json.dumps({"limit_usd": usd}).encode()
        self.send("budgets", user.encode(), value)
        effective = usd if usd is not None else expect
        until(lambda: self._limit(user) == effective, f"limit {effective} of {user}")
        return user

    def user(self, usd: float | None = None) -> str:
        """A new user, with a limit if one is given."""
        user = unique("user")
        return user if usd is None else self.limit(user, usd)

    def learned(self, model: str) -> Row:
        """The model's row of `pilot models list --json`."""
        rows = self.run(models_with_learning(self.settings))
        return next(row for row in rows if row["model"] == model)

    def budgets(self) -> dict[str, Row]:
        """The rows of `pilot budgets list --json` by user."""
        return {row["user_id"]: row for row in self.run(budgets_with_spend(self.settings))}

    def _limit(self, user: str) -> float | None:
        account = self.account(user)
        return None if account is None else account["limit_usd"]

    async def _start(self) -> None:
        servers = connect.client_arguments(self.settings)
        self._producer = AIOKafkaProducer(**servers, acks="all", max_request_size=LARGEST_FETCH)
        await self._producer.start()
        self._reader = AIOKafkaConsumer(
            **servers, max_partition_fetch_bytes=LARGEST_FETCH, isolation_level="read_committed"
        )
        await self._reader.start()
        self._offsets = AIOKafkaConsumer(**servers, group_id=self.settings.application_id, enable_auto_commit=False)
        await self._offsets.start()
        partitions = await topics.partition_count(self.settings)
        decisions = [TopicPartition(self.settings.topic("decisions"), number) for number in range(partitions)]
        assigned = [*decisions, TopicPartition(self.settings.topic("dead-letters"), 0)]
        self._reader.assign(assigned)
        await self._reader.seek_to_beginning(*assigned)
        self._reading = asyncio.create_task(self._read())

    async def _stop(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        for client in (self._reader, self._offsets, self._producer):
            with suppress(asyncio.CancelledError):  # aiokafka lets that of a task of its own out now and then
                await client.stop()

    async def _read(self) -> None:
        async for record in self._reader:
            if record.topic == self.settings.topic("decisions"):
                self._decisions[json.loads(record.value)["query_id"]].append(record)
            else:
                said = dict(record.headers)
                place = (
                    said["pilot.source.topic"].decode(),
                    int(said["pilot.source.partition"]),
                    int(said["pilot.source.offset"]),
                )
                self._letters[place].append(record)

    async def _committed(self, tp: TopicPartition) -> int:
        return await self._offsets.committed(tp) or 0


class WorkerProcess:
    """`python -m worker.cli worker`, or another program, with settings of its own; stopped by its pid."""

    def __init__(
        self, settings: Settings, log: Path, program: Sequence[str] = ("worker.cli", "worker"), **more: Any
    ) -> None:
        self.settings = settings
        self.http_port = int(more.pop("http_port", 0) or local.free_port())
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program], env=environment(settings, self.http_port, **more),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page; status 0 while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5.0)
        try:
            connection.request("GET", page)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def ready(self, *, for_text: bool = True) -> None:
        """Wait for `/readyz`; who sends no text need not wait until the encoder is loaded."""

        def answered() -> bool:
            assert self.process.poll() is None, self.said()
            status, body = self.get("/readyz")
            missing = json.loads(body)["reasons"] if status else [ENCODER_LOADING]
            return status == 200 or (not for_text and status == 503 and missing == [ENCODER_LOADING])

        until(answered, f"ready: {self.log}", READY_S)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 without any."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return float(sum(s.value for s in samples if labels.items() <= s.labels.items()))

    @contextmanager
    def counted(self, name: str, by: float = 1, **labels: str) -> Iterator[None]:
        """What happens inside must raise the metric by so much, soon after at the latest."""
        before = self.metric(name, **labels)
        yield
        until(lambda: self.metric(name, **labels) >= before + by, f"{name}{labels} + {by}")
        assert self.metric(name, **labels) == before + by

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the process; its exit code."""
        return self.process.wait(timeout_s)

    def said(self) -> str:
        """Everything that the process has written."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, then wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def environment(settings: Settings, http_port: int, **more: Any) -> dict[str, str]:
    """The environment of a `pilot` process of this deployment; `more` are other settings."""
    given = settings.model_dump(exclude_unset=True) | {"http_port": http_port} | more
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    own = {f"PILOT_{name.upper()}": str(value) for name, value in given.items()}
    return {**inherited, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **own}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Topics, one worker and one client."""

    settings: Settings
    client: Client
    worker: WorkerProcess
    folder: Path

    def pilot(self, *arguments: str) -> str:
        """What a `pilot` command of this deployment prints."""
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments], env=environment(self.settings, 0), cwd=self.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def deployed(
    broker: str,
    folder: Path,
    models: Sequence[Row] = (),
    partitions: int = 4,
    program: Sequence[str] = ("worker.cli", "worker"),
    **more: Any,
) -> Iterator[Deployment]:
    """A deployment with a running worker, ready if there are models; `more` are its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        bootstrap_servers=broker, topic_prefix=f"t{uuid.uuid4().hex[:12]}.", data_dir=folder / "state", **more
    )
    asyncio.run(topics.create(settings, partitions))
    client = Client(settings)
    try:
        for model in models:
            fields = dict(model)
            client.model(fields.pop("model"), fields.pop("input_usd"), fields.pop("output_usd"), **fields)
        worker = WorkerProcess(settings, folder / "worker.log", program)
        try:
            if models:
                worker.ready(for_text=False)
            yield Deployment(settings, client, worker, folder)
        finally:
            worker.stop()
    finally:
        client.close()
