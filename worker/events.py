"""Wire models: one class per event of the public topics, and the only place that reads raw JSON.

Input is strict in types, tolerant of unknown fields, and null means absent. The
JSON Schemas in `schemas/` are generated from these classes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict

from worker.core.verdict import Exclusion, Reason
from worker.errors import BadRecord, DeadLetterCode

MAX_ID_BYTES = 256
MAX_TASK_BYTES = 128
MAX_TEXT_CHARS = 400_000
MAX_FEEDBACK_BYTES = 16 * 1024
MAX_METADATA_ENTRIES = 32
MAX_METADATA_BYTES = 4 * 1024
# Upper bounds keep every sum of state inside 64 bits: 1e6 USD are 1e15 nano-dollars.
MAX_COST_USD = 1e6
MAX_LIMIT_USD = 1e9
MAX_TOKENS = 1_000_000_000
EVERYONE_ELSE = "*"
MAX_SHOWN_CHARS = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc


def _identifier(value: str) -> str:
    if 0 < len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return value  # nearly all: one byte a character, and no control character is printable
    if not value:
        raise ValueError("must not be empty")
    if len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"must be at most {MAX_ID_BYTES} bytes")
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def _user(value: str) -> str:
    if value == EVERYONE_ELSE:
        raise ValueError(f"{EVERYONE_ELSE!r} is no user id")
    return _identifier(value)


def _label(value: str) -> str:
    if not (value.isascii() and len(value) <= MAX_TASK_BYTES) and len(value.encode()) > MAX_TASK_BYTES:
        raise ValueError(f"must be at most {MAX_TASK_BYTES} bytes")
    return value


def _metadata(value: dict[str, str]) -> dict[str, str]:
    if len(value) > MAX_METADATA_ENTRIES:
        raise ValueError(f"must have at most {MAX_METADATA_ENTRIES} entries")
    if sum(len(k.encode()) + len(v.encode()) for k, v in value.items()) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes")
    return value


_NO_CONTROL = {
    "minLength": 1,
    "maxLength": MAX_ID_BYTES,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
    "description": f"1 to {MAX_ID_BYTES} UTF-8 bytes without control characters",
}
Identifier = Annotated[str, AfterValidator(_identifier), Field(json_schema_extra=_NO_CONTROL)]
UserId = Annotated[
    str, AfterValidator(_user), Field(json_schema_extra={**_NO_CONTROL, "not": {"const": EVERYONE_ELSE}})
]
Label = Annotated[str, AfterValidator(_label), Field(json_schema_extra={"maxLength": MAX_TASK_BYTES})]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Usd = Annotated[float, Field(ge=0, le=MAX_COST_USD, allow_inf_nan=False)]


class _Input(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Query(_Input):
    """One query to route, from the topic `queries`, keyed by user_id."""

    query_id: Identifier
    user_id: UserId
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = None
    embedding: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="the encoder's dimension; used as it is"
    )
    task: Label | None = Field(None, description="what the caller knows of the kind of query")
    models: Annotated[list[Identifier], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="allow-list"
    )
    requires: Annotated[list[Label], Field(fail_fast=True)] | None = Field(
        None, description="tags that the model must have"
    )
    max_cost_usd: Usd | None = None
    input_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = Field(None, description="what the caller will allow")
    metadata: Annotated[dict[str, str], AfterValidator(_metadata)] | None = Field(
        None,
        description=f"echoed in the decision; at most {MAX_METADATA_BYTES} UTF-8 bytes",
        json_schema_extra={"maxProperties": MAX_METADATA_ENTRIES},
    )

    @model_validator(mode="after")
    def _has_content(self) -> Query:
        if self.text is None and self.embedding is None:
            raise ValueError("needs text or embedding")
        return self


class Feedback(_Input):
    """What became of a query, from the topic `feedback`, keyed by user_id. May come in parts."""

    query_id: Identifier
    user_id: UserId
    reward: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    cost_usd: Usd | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    status: Literal["ok", "error", "timeout"] = "ok"
    model: Identifier | None = Field(None, description="the model that ran; default: the one decided")
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    source: Label | None = Field(None, description="who says so, such as user or judge")

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if (self.input_tokens is None) != (self.output_tokens is None):
            raise ValueError("needs both of input_tokens and output_tokens, or neither")
        silent = self.reward is None and self.cost_usd is None and self.input_tokens is None
        if silent and self.status == "ok":
            raise ValueError("needs reward, cost_usd, input_tokens + output_tokens or a failed status")
        return self

    @property
    def failed(self) -> bool:
        """Whether the call ended in an error or a timeout."""
        return self.status != "ok"


class ModelRecord(_Input):
    """A model that can be chosen, from the compacted topic `models`, keyed by model."""

    model: Identifier
    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    request_usd: Usd = 0.0
    enabled: bool = True
    expected_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = Field(256, description="until learned")
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_input_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = Field(None, description="context window")
    tags: list[Label] = Field(default_factory=list)


class BudgetRecord(_Input):
    """A user's limit per window, from the compacted topic `budgets`, keyed by user_id or `*`."""

    limit_usd: Annotated[float, Field(ge=0, le=MAX_LIMIT_USD, allow_inf_nan=False)]


class BudgetView(TypedDict):
    """The user's window after this decision's reservation; remaining may be negative."""

    limit_usd: float
    settled_usd: float
    reserved_usd: float
    remaining_usd: float
    window_start: str
    window_end: str
    shadow_price: float | None


class CandidateView(TypedDict):
    """One enabled model as the decision saw it."""

    model: str
    expected_reward: float
    uncertainty: float
    estimated_cost_usd: float
    excluded: Exclusion | None


class SourceView(TypedDict):
    """Where the query lies in the queries topic."""

    partition: int
    offset: int


class Decision(TypedDict):
    """Which model answers, to the topic `decisions`, keyed by user_id. Every field is present."""

    query_id: str
    user_id: str
    status: Literal["routed", "rejected"]
    reason: Reason | None
    model: str | None
    expected_reward: float | None
    uncertainty: float | None
    propensity: float | None
    estimated_cost_usd: float | None
    reservation_usd: float | None
    policy: str
    policy_version: str
    budget: BudgetView | None
    candidates: list[CandidateView]
    source: SourceView
    decided_at: str
    metadata: dict[str, str] | None


Input = TypeVar("Input", bound=_Input)


def parse(kind: type[Input], value: bytes | None) -> Input:
    """Read one record value.

    Raises:
        BadRecord: `invalid_json` or `invalid_event`; the message names field and reason.
    """
    return _validated(kind, _object(value))


def parse_feedback(value: bytes | None) -> Feedback:
    """`parse` for feedback, whose values are limited in size because they may be parked in state."""
    content = _object(value)
    if value is not None and len(value) > MAX_FEEDBACK_BYTES:
        raise BadRecord(DeadLetterCode.INVALID_EVENT, f"value: {len(value)} bytes, at most {MAX_FEEDBACK_BYTES}")
    return _validated(Feedback, content)


def _object(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise BadRecord(DeadLetterCode.INVALID_JSON, "the value is absent or empty")
    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadRecord(DeadLetterCode.INVALID_JSON, str(error)) from None
    if not isinstance(content, dict):
        raise BadRecord(DeadLetterCode.INVALID_JSON, f"the value is a {type(content).__name__}, not an object")
    return content


def _validated(kind: type[Input], content: dict[str, Any]) -> Input:
    present = {name: value for name, value in content.items() if value is not None}
    try:
        return kind.model_validate(present)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # A part can be the caller's own key, of any length; the message travels in a header.
        where = ".".join(str(part)[:MAX_SHOWN_CHARS] for part in first["loc"]) or "event"
        why = first["msg"].removeprefix("Value error, ")
        raise BadRecord(DeadLetterCode.INVALID_EVENT, f"{where}: {why}") from None
