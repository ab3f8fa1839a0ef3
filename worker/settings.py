"""Every setting of the worker: name, meaning, default, and where its value came from.

Sources, strongest first: environment `PILOT_*`, the file given by `--config` (or
`pilot.toml` in the working directory), the preset, the defaults below.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import UsageError

ENV_PREFIX = "PILOT_"
DEFAULT_FILE = Path("pilot.toml")
DEFAULT_ENCODER = "all-MiniLM-L6-v2"

Preset = Literal["default", "paper"]
PolicyName = Literal["pacing", "zcl", "floor", "unlimited"]
ReserveMode = Literal["expected", "quantile", "worst_case"]

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
    preset: Preset = Field("default", description="default, or paper: PILOT as published")
    policy: PolicyName = Field("pacing", description="budget policy")
    quality_floor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="for policy floor: share of the best model's quality to keep"
    )
    alpha: Annotated[float, Field(ge=0)] | None = Field(None, description="exploration bonus; default by prior")
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

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        preset = _PRESETS.get(values.get("preset", "default"), {})
        return {**preset, **values}

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

    def changelog(self, table: str) -> str:
        """Full name of a table's changelog topic, as Faust names it."""
        return f"{self.application_id}-{table}-changelog"


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None


def _from_environment(environ: dict[str, str]) -> dict[str, Any]:
    named = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX)}
    return {name.removeprefix(ENV_PREFIX).lower(): value for name, value in named.items() if value != ""}


def _explain(error: ValidationError, env_values: dict[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    shown = ENV_PREFIX + name.upper() if name in env_values or name in Settings.model_fields else name
    if first["type"] == "extra_forbidden":
        return f"{shown}: unknown setting"
    return f"{shown}={first['input']!r}: {first['msg']}"
