"""Every setting of the worker: name, meaning, default, and where its value came from.

Sources, strongest first: environment `PILOT_*`, the file given by `--config` (or
`pilot.toml` in the working directory), the preset, the defaults below.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from worker.errors import UsageError

ENV_PREFIX = "PILOT_"
DEFAULT_FILE = Path("pilot.toml")
DEFAULT_ENCODER = "all-MiniLM-L6-v2"

Preset = Literal["default", "paper"]
PolicyName = Literal["pacing", "zcl", "floor", "unlimited"]
RewardModel = Literal["coupled", "disjoint"]
ReserveMode = Literal["expected", "quantile", "worst_case"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
StoreKind = Literal["memory", "rocksdb"]
LogUsers = Literal["plain", "hashed", "none"]
# Settings that say how to reach the brokers: another program of the same deployment needs them too.
CONNECTION_PREFIXES = ("PILOT_SECURITY_", "PILOT_SASL_", "PILOT_SSL_")

_PRESETS: dict[Preset, dict[str, Any]] = {"default": {}, "paper": {"policy": "zcl", "reserve": "expected"}}


def _servers(value: str) -> str:
    for server in value.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
            raise ValueError("needs host:port, several separated by commas")
    return value


class Settings(BaseModel):
    """The effective settings of one process. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    bootstrap_servers: Annotated[str, AfterValidator(_servers)] = Field("127.0.0.1:9092", description="brokers")
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.$", max_length=100)] = Field(
        "pilot.", description="names of topics, consumer group and changelogs; ends with a dot"
    )
    worker_id: str = Field("", description="static membership; unique per worker, the same after a restart")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("pilot-router"), description="local state, a sub-folder per worker"
    )
    store: StoreKind = Field(
        "memory", description="where tables are: memory, or rocksdb: in the data dir, for many keys and quick restarts"
    )
    preset: Preset = Field("default", description="default, or paper: PILOT as published")
    policy: PolicyName = Field("pacing", description="budget policy")
    quality_floor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="for policy floor: share of the best model's quality to keep"
    )
    alpha: Annotated[float, Field(ge=0)] | None = Field(None, description="exploration bonus; default by prior")
    reward_model: RewardModel = Field(
        "coupled", description="coupled: models learn from each other; disjoint: each alone (LinUCB)"
    )
    exploration_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="probability of a uniformly drawn eligible model"
    )
    learning_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="only for preset paper: share of queries that learn"
    )
    reserve: ReserveMode = Field("quantile", description="what a decision reserves: expected, quantile, worst_case")
    reserve_quantile: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="quantile of the learned cost")
    fallback: Literal["reject", "cheapest"] = Field("reject", description="when no model fits the budget")
    budget_window_s: Annotated[int, Field(ge=1)] = Field(86_400, description="length of a budget window")
    budget_window_offset_s: Annotated[int, Field(ge=0)] = Field(0, description="windows start at multiples plus this")
    decision_ttl_s: Annotated[float, Field(gt=0)] = Field(86_400.0, description="how long a decision is remembered")
    park_s: Annotated[float, Field(gt=0)] = Field(300.0, description="how long early feedback waits for its query")
    prior: Path | None = Field(None, description="prior artefact")
    encoder: str = Field(DEFAULT_ENCODER, description="sentence-transformers model by name or path")
    embedding_dim: Annotated[int, Field(ge=1)] = Field(384, description="length of an embedding")
    decision_detail: Literal["full", "chosen"] = Field("full", description="chosen: no candidates in decisions")
    http_host: str = Field("127.0.0.1", description="metrics and health")
    http_port: Annotated[int, Field(ge=0, le=65_535)] = Field(8080, description="metrics and health; 0: any free port")
    session_timeout_s: Annotated[float, Field(ge=2)] = Field(
        10.0, description="group session; failover takes this long"
    )
    log_format: Literal["text", "json"] = Field("text", description="logs for people or for machines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    log_users: LogUsers = Field("plain", description="user ids in logs and traces: plain, hashed or none")
    tracing: Literal["off", "otlp"] = Field("off", description="otlp: spans of every query to OTEL_EXPORTER_OTLP_*")
    security_protocol: SecurityProtocol = Field("PLAINTEXT", description="as Kafka's security.protocol")
    sasl_mechanism: SaslMechanism | None = Field(None, description="as Kafka's sasl.mechanism")
    sasl_username: str | None = Field(None, description="for PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="for PLAIN and SCRAM")
    sasl_password_file: Path | None = Field(None, description="file with the password, instead of it")
    sasl_token_file: Path | None = Field(None, description="for OAUTHBEARER: file with the token, read anew each time")
    ssl_cafile: Path | None = Field(None, description="certificates to trust, PEM; default: the system's")
    ssl_certfile: Path | None = Field(None, description="own certificate chain, PEM, where the broker asks for one")
    ssl_keyfile: Path | None = Field(None, description="its private key, PEM")
    ssl_key_password: SecretStr | None = Field(None, description="password of the private key")
    ssl_check_hostname: bool = Field(True, description="whether the broker's certificate must name its host")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        preset = _PRESETS.get(values.get("preset", "default"), {})
        return {**preset, **values}

    @model_validator(mode="after")
    def _security_is_complete(self) -> Self:
        for name, reason in _contradictions(self):
            raise ValueError(f"{ENV_PREFIX}{name.upper()}: {reason}")
        return self

    @property
    def effective_worker_id(self) -> str:
        """`worker_id`, or host name and HTTP port."""
        return self.worker_id or f"{socket.gethostname()}-{self.http_port}"

    @property
    def worker_dir(self) -> Path:
        """The folder of this worker's own state."""
        return self.data_dir / self.application_id / self.effective_worker_id

    @property
    def application_id(self) -> str:
        """Consumer group and prefix of the changelogs: the topic prefix without its final dot."""
        return self.topic_prefix.removesuffix(".")

    def topic(self, name: str) -> str:
        """Full name of a public topic such as `queries`."""
        return self.topic_prefix + name

    def owner_id(self, partition: int) -> str:
        """Transactional id of whoever may write the changelogs of a partition."""
        return f"{self.application_id}-partition-{partition}"

    def changelog(self, table: str) -> str:
        """Full name of a table's changelog topic, as Faust names it."""
        return f"{self.application_id}-{table}-changelog"


_SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None)


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is missing or in vain among the connection settings, as (setting, reason)."""
    protocol, mechanism = settings.security_protocol, settings.sasl_mechanism
    if protocol.startswith("SASL") and mechanism is None:
        yield "sasl_mechanism", f"needed with PILOT_SECURITY_PROTOCOL={protocol}"
    if mechanism is not None:
        yield from _sasl_contradictions(settings, mechanism)
    files = [name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(settings, name) is not None]
    if files and not protocol.endswith("SSL"):
        yield files[0], f"needs PILOT_SECURITY_PROTOCOL=SSL or SASL_SSL, not {protocol}"
    if settings.ssl_keyfile is not None and settings.ssl_certfile is None:
        yield "ssl_certfile", "needed with PILOT_SSL_KEYFILE"


def _sasl_contradictions(settings: Settings, mechanism: SaslMechanism) -> Iterator[tuple[str, str]]:
    wanted = f"needed with PILOT_SASL_MECHANISM={mechanism}"
    if not settings.security_protocol.startswith("SASL"):
        protocol = settings.security_protocol
        yield "sasl_mechanism", f"needs PILOT_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT, not {protocol}"
    if mechanism == "OAUTHBEARER":
        if settings.sasl_token_file is None:
            yield "sasl_token_file", wanted
        return
    if settings.sasl_username is None:
        yield "sasl_username", wanted
    if [settings.sasl_password, settings.sasl_password_file].count(None) != 1:
        yield "sasl_password", f"{wanted}: either it or PILOT_SASL_PASSWORD_FILE"


def load(config: Path | None = None, environ: dict[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
    """Settings and the origin of each: `environment`, `file`, `preset` or `default`.

    Raises:
        UsageError: unknown key, bad value, unreadable file; the line names the setting.
    """
    file_values, env_values = _from_file(config), _from_environment(dict(os.environ) if environ is None else environ)
    values = {**file_values, **env_values}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error, env_values)) from None
    preset = _PRESETS[settings.preset]
    origins = {
        name: "environment" if name in env_values
        else "file" if name in file_values
        else "preset" if name in preset
        else "default"
        for name in Settings.model_fields
    }  # fmt: skip
    return settings, origins


def _from_file(config: Path | None) -> dict[str, Any]:
    path = config if config is not None else DEFAULT_FILE
    if config is None and not path.exists():
        return {}
    try:
        return {name.lower(): value for name, value in tomllib.loads(path.read_text("utf-8")).items()}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None


def _from_environment(environ: dict[str, str]) -> dict[str, Any]:
    named = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX)}
    return {name.removeprefix(ENV_PREFIX).lower(): value for name, value in named.items() if value != ""}


def _explain(error: ValidationError, env_values: dict[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:  # of several settings together; the message names one
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    shown = ENV_PREFIX + name.upper() if name in env_values or name in Settings.model_fields else name
    if first["type"] == "extra_forbidden":
        return f"{shown}: unknown setting"
    # A secret is not shown even where it is of the wrong type.
    value = "" if name in _SECRETS else f"={first['input']!r}"
    return f"{shown}{value}: {first['msg']}"
