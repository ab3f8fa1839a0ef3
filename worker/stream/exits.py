"""Exits: how a part that cannot go on ends the process, with the code of the contract.

Through `os._exit`: a crashed Faust application can hang instead of leaving
(robinhood/faust#596, #684). What is not acknowledged will be replayed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import structlog

from worker.errors import ExitCode, PilotError, UsageError, WorkerMustStop
from worker.observe.last_exit import ExitNote

logger = structlog.get_logger(__name__)
_note: ExitNote | None = None


def remember(note: ExitNote) -> None:
    """From now on leave a note of how this process ends."""
    global _note  # noqa: PLW0603 - one worker per process, and whatever ends it must find the note
    _note = note
    if not note.begin():
        logger.warning("the exit note cannot be written: is the disk full?", path=str(note.path))


def watched(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task without which the worker must not go on."""
    return asyncio.create_task(_guard(name, work), name=name)


def guarded(name: str, body: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """An agent body whose failure ends the process: Faust would acknowledge the event and go on."""

    async def agent(stream: Any) -> None:
        await _guard(name, body(stream))

    return agent


async def _guard(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - nothing may end silently
        end(name, error)


def end(name: str, error: BaseException) -> NoReturn:
    """Leave at once, with the code that the error stands for."""
    if isinstance(error, WorkerMustStop):
        logger.error("worker must stop", part=name, code=int(error.code), reason=str(error))
        leave(error.code, f"{name}: {error}")
    if isinstance(error, PilotError):
        logger.error("worker must stop", part=name, reason=str(error))
        leave(ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED, f"{name}: {error}")
    logger.error("worker failed", part=name, exc_info=error)
    leave(ExitCode.FAILED, f"{name}: {error!r}")


def leave(code: ExitCode, detail: str = "") -> NoReturn:
    """End the process after its last words are written."""
    if _note is not None:
        _note.end(code, detail)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
