"""Logs: one line an event, for people or as JSON, on stderr; never a prompt or an embedding.

The libraries' own logging (faust, mode, aiokafka) goes through the same formatter.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import IO, Any, Literal

import structlog

from worker.observe import identity
from worker.observe import records as r
from worker.settings import LogUsers

LogFormat = Literal["text", "json"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# In an outage aiokafka says the same for every partition and attempt: thousands of lines a minute.
FLOODING = ("aiokafka", "faust", "mode")
QUIET_S = 30.0


def configure(
    log_format: LogFormat = "text",
    level: int = logging.INFO,
    stream: IO[str] | None = None,
    users: LogUsers = "plain",
) -> None:
    """Send structlog's and the standard library's events to `stream` (default stderr). Replaces earlier handlers.

    Libraries never log below info: at debug aiokafka writes whole requests, prompts and passwords included.
    """
    shared = _shared_processors(identity.disguise(users))
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_render(log_format, handler.stream),
            ],
        )
    )
    handler.addFilter(RateLimit(FLOODING, QUIET_S))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    for ours in ("worker", "pilot"):
        logging.getLogger(ours).setLevel(level)
    for library in FLOODING:
        logging.getLogger(library).setLevel(logging.NOTSET)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: `log.info("event", field=value)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class RateLimit(logging.Filter):
    """Lets the first of like messages through, then one every `quiet_s` that says how many were left out.

    Alike are messages of one logger, level and format string; other loggers than the `prefixes` pass freely.
    """

    def __init__(self, prefixes: tuple[str, ...], quiet_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._prefixes = prefixes
        self._quiet_s = quiet_s
        self._clock = clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno < logging.WARNING or record.name.partition(".")[0] not in self._prefixes:
            return True
        key = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        last, left_out = self._seen.get(key, (-self._quiet_s, 0))
        if now - last < self._quiet_s:
            self._seen[key] = (last, left_out + 1)
            return False
        self._seen[key] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} more like it)"
        return True


class LogObserver:
    """Logs the records that an operator should read about; the others are only counted."""

    def __init__(self) -> None:
        self._log = get("pilot")
        self._every_decision = logging.getLogger("pilot").isEnabledFor(logging.DEBUG)
        self._told: set[type] = {r.DeadLetterSent, r.ControlRecordSkipped, r.CostAboveBound, r.RecordsLost}
        if self._every_decision:
            self._told.add(r.DecisionSent)

    def observe(self, record: r.Record) -> None:
        """Write a line, or nothing."""
        if type(record) not in self._told:
            return
        match record:
            case r.DecisionSent():
                self._log.debug(
                    "decision", query_id=record.query_id, user_id=record.user_id, status=record.status,
                    model=record.model, reason=record.reason, latency_s=record.stages and sum(record.stages),
                )  # fmt: skip
            case r.DeadLetterSent(topic, partition, offset, code):
                self._log.info("dead_letter", topic=topic, partition=partition, offset=offset, code=str(code))
            case r.ControlRecordSkipped(topic, offset, reason):
                self._log.warning("control_record_skipped", topic=topic, offset=offset, reason=reason)
            case r.CostAboveBound(model, nanos, bound):
                self._log.warning("cost_above_bound", model=model, nanos=nanos, bound_nanos=bound)
            case r.RecordsLost(topic, partition, first, count):
                self._log.error("records_lost", topic=topic, partition=partition, first=first, count=count)
            case _:
                pass


def _shared_processors(disguise: identity.Disguise) -> list[Any]:
    def hide_user(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if "user_id" in event:
            shown = disguise(event.pop("user_id"))
            if shown is not None:
                event["user_id"] = shown
        return event

    return [
        hide_user,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _render(log_format: LogFormat, stream: IO[str]) -> list[Any]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
