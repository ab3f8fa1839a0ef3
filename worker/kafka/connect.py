"""How this package reaches the brokers: clients that close themselves and say clearly what is in the way.

Address, TLS and SASL of every client are `client_arguments`: here, in the worker's
Faust application, and in the demo.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from worker.errors import OperationFailed, UsageError
from worker.settings import Settings

START_PATIENCE_S = 60.0
_RETRY_S = 1.0
_PROBE_MS = 5_000
_DENIED = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


def client_arguments(settings: Settings) -> dict[str, Any]:
    """Address and security as every aiokafka client takes them.

    Raises:
        UsageError: a file cannot be used; the line names the setting.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.sasl_mechanism == "OAUTHBEARER":
        arguments |= {"sasl_oauth_token_provider": TokenFile(settings.sasl_token_file or Path())}
    elif settings.sasl_mechanism is not None:
        arguments |= {"sasl_plain_username": settings.sasl_username, "sasl_plain_password": sasl_password(settings)}
    if settings.sasl_mechanism is not None:
        arguments["sasl_mechanism"] = settings.sasl_mechanism
    return arguments


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context, or None where the protocol has no TLS.

    Raises:
        UsageError: a certificate or key cannot be used; the line names the setting.
    """
    if not settings.security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context()
    if settings.ssl_cafile is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with _naming("PILOT_SSL_CAFILE", settings.ssl_cafile):
            context.load_verify_locations(settings.ssl_cafile)
    if settings.ssl_certfile is not None:
        _load_own_certificate(context, settings, settings.ssl_certfile)
    context.check_hostname = settings.ssl_check_hostname
    return context


def sasl_password(settings: Settings) -> str | None:
    """The password, from the setting or its file; a line end at the file's end does not belong to it.

    Raises:
        UsageError: the file cannot be read.
    """
    if settings.sasl_password_file is not None:
        return _content("PILOT_SASL_PASSWORD_FILE", settings.sasl_password_file)
    return None if settings.sasl_password is None else settings.sasl_password.get_secret_value()


def principal(settings: Settings) -> str:
    """Who the broker takes this process for, as far as it can know that itself."""
    if settings.sasl_username is not None:
        return f"User:{settings.sasl_username}"
    if settings.sasl_mechanism is not None:
        return f"the subject of PILOT_SASL_TOKEN_FILE={settings.sasl_token_file}"
    if settings.ssl_certfile is not None:
        return f"the subject of PILOT_SSL_CERTFILE={settings.ssl_certfile}"
    return "User:ANONYMOUS"


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka is untyped here
    """An OAuth token that something else renews in a file, such as a Kubernetes projected token."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token as it is now."""
        return _content("PILOT_SASL_TOKEN_FILE", self._path)


@contextmanager
def _naming(setting: str, path: Path) -> Iterator[None]:
    """Failures inside are told as those of a setting's file."""
    try:
        yield
    except ssl.SSLError as error:  # which is an OSError
        raise UsageError(f"{setting}={path}: cannot be used ({error.reason or 'no usable PEM'})") from None
    except OSError as error:
        raise UsageError(f"{setting}={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{setting}={path}: not UTF-8 text") from None


def _content(setting: str, path: Path) -> str:
    with _naming(setting, path):
        return path.read_text("utf-8").rstrip("\r\n")


def _load_own_certificate(context: ssl.SSLContext, settings: Settings, certificate: Path) -> None:
    password = settings.ssl_key_password
    for setting, path in (("PILOT_SSL_CERTFILE", certificate), ("PILOT_SSL_KEYFILE", settings.ssl_keyfile)):
        if path is not None:
            _content(setting, path)  # the loader does not say which of the two is missing
    with _naming("PILOT_SSL_CERTFILE", certificate):
        # Without a password OpenSSL would ask on the terminal.
        context.load_cert_chain(
            certificate, settings.ssl_keyfile, (lambda: "") if password is None else password.get_secret_value()
        )


@asynccontextmanager
async def _started(client: Any, stop: str, settings: Settings, doing: str) -> AsyncIterator[Any]:
    servers = settings.bootstrap_servers
    try:
        try:
            await client.start()
        except (KafkaConnectionError, RequestTimedOutError) as error:
            raise await _unreachable(settings) from error
        yield client
    except _DENIED as error:
        raise denied(settings, doing, str(error)) from error
    except KafkaError as error:
        raise OperationFailed(f"Kafka at {servers}: {error}") from error
    finally:
        await getattr(client, stop)()


def denied(settings: Settings, operation: str, resource: str) -> OperationFailed:
    """The error for a missing right: operation, resource and principal."""
    return OperationFailed(
        f"{principal(settings)} may not {operation}: {resource}; `pilot topics acls` prints what each role needs"
    )


async def _unreachable(settings: Settings) -> OperationFailed | UsageError:
    """Why no client could start: aiokafka only logs it."""
    listening = []
    for server in (server.strip() for server in settings.bootstrap_servers.split(",")):
        error = await _refusal(settings, server)
        wrong = _wrong_setting(settings, server, error)
        if wrong is not None:
            return UsageError(wrong)
        if not isinstance(error, OSError):
            listening.append(server)
    failure = f"no Kafka broker answers at {settings.bootstrap_servers} (PILOT_BOOTSTRAP_SERVERS)"
    if listening:
        bare = settings.security_protocol.endswith("SSL") and settings.ssl_certfile is None
        failure += (
            f"; {listening[0]} takes connections, but not with PILOT_SECURITY_PROTOCOL={settings.security_protocol}"
            f"{' and no PILOT_SSL_CERTFILE' if bare else ''}, or is still starting"
        )
    return OperationFailed(failure)


async def _refusal(settings: Settings, server: str) -> BaseException | None:
    host, _, port = server.rpartition(":")
    arguments = {name: value for name, value in client_arguments(settings).items() if name != "bootstrap_servers"}
    try:
        connection = await create_conn(host, int(port), request_timeout_ms=_PROBE_MS, **arguments)
    except (OSError, KafkaError) as error:
        return error
    connection.close()
    return None


def _wrong_setting(settings: Settings, server: str, error: BaseException | None) -> str | None:
    """The line for a broker that answers and refuses, or None: waiting may help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = settings.ssl_cafile or "not set"
        return f"PILOT_SSL_CAFILE ({trusted}): the certificate of {server} is not accepted: {error.verify_message}"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"PILOT_SASL_MECHANISM={settings.sasl_mechanism}: {server} does not offer it"
    if isinstance(error, (AuthenticationFailedError, SaslAuthenticationFailed)):
        secret = "TOKEN_FILE" if settings.sasl_mechanism == "OAUTHBEARER" else "PASSWORD"
        return f"PILOT_SASL_{secret}: {server} does not accept {principal(settings)}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "it closed the connection"
        return f"PILOT_SECURITY_PROTOCOL={settings.security_protocol}: no TLS with {server} ({reason})"
    return None


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client; Kafka's errors leave it as `OperationFailed`."""
    client = AIOKafkaAdminClient(**client_arguments(settings))
    async with _started(client, "close", settings, "Describe") as started:
        yield started


@asynccontextmanager
async def producer(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer that waits for all in-sync replicas; options as of AIOKafkaProducer."""
    client = AIOKafkaProducer(**client_arguments(settings), acks="all", **options)
    async with _started(client, "stop", settings, "Write") as started:
        yield started


@asynccontextmanager
async def reader(settings: Settings, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group at the beginning of every partition of one topic, committed records only.

    Raises:
        OperationFailed: no broker, no such topic, or it may not be read.
        UsageError: the connection settings do not fit the broker.
    """
    await require_topic(settings, topic)
    client = AIOKafkaConsumer(
        topic,
        **client_arguments(settings),
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    async with _started(client, "stop", settings, "Read") as started:
        yield started


@asynccontextmanager
async def onlooker(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that reads nothing, to ask for offsets; Kafka's errors leave it as `OperationFailed`."""
    client = AIOKafkaConsumer(**client_arguments(settings), group_id=None, enable_auto_commit=False)
    async with _started(client, "stop", settings, "Describe") as started:
        yield started


async def require_topic(settings: Settings, topic: str) -> None:
    """Fail at once when a topic is missing.

    Raises:
        OperationFailed: no broker, no such topic, or it may not be described.
    """
    # A consumer would look for a missing topic for 40 s and log a line each time.
    async with admin(settings) as client:
        (described,) = await client.describe_topics([topic])
    check_found(settings, topic, described["error_code"])


def check_found(settings: Settings, topic: str, code: int) -> None:
    """Turn the error code of a topic's description into what an operator can do about it.

    Raises:
        OperationFailed: unless the code is 0.
    """
    if code == TopicAuthorizationFailedError.errno:
        raise denied(settings, "Describe", topic)
    if code:
        raise OperationFailed(f"{topic}: no such topic, run `pilot topics create`")


async def wait_for_broker(settings: Settings, patience_s: float = START_PATIENCE_S) -> None:
    """Return as soon as a broker answers.

    Raises:
        OperationFailed: none answered in time.
        UsageError: one answered, and the connection settings do not fit it.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            async with admin(settings):
                return
        except OperationFailed:
            if time.monotonic() + _RETRY_S > deadline:
                raise
            await asyncio.sleep(_RETRY_S)
