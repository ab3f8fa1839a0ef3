"""`pilot doctor`: everything that a worker with these settings needs, in one report."""

from __future__ import annotations

import asyncio
import http.client
import json
import platform
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import click

from worker.cli.output import Row, json_option, show
from worker.cli.root import effective_settings
from worker.errors import OperationFailed, PilotError, UsageError
from worker.settings import Settings

Check = Callable[[Settings], Awaitable[str]]

_HEADINGS = {"check": "check", "ok": "ok", "detail": "detail"}
_MAX_SKEW_S = 5.0


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Check broker, rights, topics, models, partitioner, clock, artefact, encoder, port and versions; writes no record.

    Run it where the worker runs, with the worker's settings. Exit code 1 when something is wrong.
    """
    settings = effective_settings()
    rows = asyncio.run(_examine(settings))
    show(rows, _HEADINGS, as_json=as_json, empty="")
    wrong = [row["check"] for row in rows if not row["ok"]]
    if wrong:
        raise OperationFailed(f"wrong: {', '.join(wrong)}")


async def _examine(settings: Settings) -> list[Row]:
    rows = [await _row(name, check, settings) for name, check in _LOCAL.items()]
    broker = await _row("broker", _broker, settings)
    rows.append(broker)
    if broker["ok"]:
        rows += [await _row(name, check, settings) for name, check in _ON_BROKER.items()]
    return rows


async def _row(name: str, check: Check, settings: Settings) -> Row:
    try:
        return {"check": name, "ok": True, "detail": await check(settings)}
    except PilotError as error:
        return {"check": name, "ok": False, "detail": str(error)}


async def _versions(_: Settings) -> str:
    from worker.stream import compat

    compat.check_versions()
    packages = ", ".join(f"{name} {known}" for name, known in compat.KNOWN_VERSIONS.items())
    return f"pilot-router {version('pilot-router')}, Python {platform.python_version()}, {packages}"


async def _data_dir(settings: Settings) -> str:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as error:
        raise UsageError(f"PILOT_DATA_DIR={settings.data_dir}: {error.strerror}") from None
    return f"{settings.data_dir} can be written"


async def _artefact(settings: Settings) -> str:
    from worker import routing

    found = routing.prior(settings)
    return f"{settings.prior or 'the shipped one'}: fingerprint {found.fingerprint}, encoder {found.encoder}"


async def _encoder(settings: Settings) -> str:
    from worker import routing
    from worker.encode import SentenceEncoder

    encoder = SentenceEncoder(settings.encoder, settings.embedding_dim)
    routing.require_encoder(settings, routing.prior(settings), encoder.identity)
    began = time.monotonic()
    encoder.encode(["Are you there?"])
    return f"{encoder.identity}, {encoder.dimension} dimensions, loaded in {time.monotonic() - began:.1f} s"


async def _port(settings: Settings) -> str:
    where = f"{settings.http_host}:{settings.http_port}"
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.http_host, settings.http_port))
    except OSError as error:
        answer = _worker_at(settings)
        if answer is None:
            raise UsageError(f"PILOT_HTTP_HOST, PILOT_HTTP_PORT: {where}: {error.strerror}") from None
        return f"{where}: a worker answers, {answer}"
    return f"{where} is free"


def _worker_at(settings: Settings) -> str | None:
    """What the worker on our port says of itself; None if something else is there."""
    connection = http.client.HTTPConnection(settings.http_host, settings.http_port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        told = json.loads(connection.getresponse().read())
        return "ready" if told["ok"] else f"not ready: {'; '.join(told['reasons'])}"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


async def _broker(settings: Settings) -> str:
    from worker.kafka import connect

    async with connect.admin(settings) as client:
        brokers = (await client.describe_cluster())["brokers"]
    as_whom = connect.principal(settings)
    return f"{settings.bootstrap_servers} answers, {len(brokers)} brokers, {settings.security_protocol} as {as_whom}"


async def _rights(settings: Settings) -> str:
    from worker.kafka import rights

    await rights.require(settings, "worker")
    return "all that a worker needs"


async def _topics(settings: Settings) -> str:
    from worker.kafka import topics

    differences = await topics.check(settings)
    if differences:
        raise OperationFailed("; ".join(differences))
    return f"as needed, {await topics.partition_count(settings)} partitions"


async def _models(settings: Settings) -> str:
    from worker.kafka.compacted import read_to_end
    from worker.kafka.control import Catalog

    catalog = Catalog()
    await read_to_end(settings, settings.topic("models"), catalog.apply)
    enabled = sum(arm.enabled for arm in catalog.arms)
    if not enabled:
        raise OperationFailed("no model is enabled: run `pilot models apply`")
    return f"{enabled} enabled of {len(catalog.arms)}"


async def _partitioner(settings: Settings) -> str:
    from worker.kafka.sample import placement

    told = []
    for name in ("queries", "feedback"):
        found = await placement(settings, settings.topic(name))
        if found.misplaced:
            raise OperationFailed(
                f"{found.misplaced} of the last {found.examined} records of {settings.topic(name)} are not where "
                "murmur2 of their key belongs: librdkafka clients need partitioner=murmur2_random"
            )
        told.append(f"{found.examined} of {name}")
    return f"the last records are in place: {', '.join(told)}"


async def _clock(settings: Settings) -> str:
    from worker.kafka.sample import clock_ahead_s, placement

    topic = settings.topic("queries")
    newest = (await placement(settings, topic)).newest_ms
    behind_s = 0.0 if newest is None else newest / 1000 - time.time()
    if behind_s > _MAX_SKEW_S:
        raise OperationFailed(f"this clock is {behind_s:.0f} s behind the broker's")
    ahead_s = await clock_ahead_s(settings, topic)
    if ahead_s is None:
        return "not behind the broker's; no query arrived just now to tell whether it is ahead"
    if ahead_s > _MAX_SKEW_S:
        raise OperationFailed(f"this clock is {ahead_s:.0f} s ahead of the broker's, or records take so long to arrive")
    return f"{ahead_s:.3f} s ahead of the broker's at most"


async def _workers(settings: Settings) -> str:
    from worker.kafka import connect
    from worker.kafka.rights import describe_group

    async with connect.admin(settings) as client:
        _, group, state, _, _, members, *_ = await describe_group(client, settings.application_id)
    return f"{len(members)} in group {group} ({state or 'none yet'})"


_LOCAL: dict[str, Check] = {
    "versions": _versions,
    "data dir": _data_dir,
    "artefact": _artefact,
    "encoder": _encoder,
    "port": _port,
}
_ON_BROKER: dict[str, Check] = {
    "rights": _rights,
    "topics": _topics,
    "models": _models,
    "partitioner": _partitioner,
    "clock": _clock,
    "workers": _workers,
}
