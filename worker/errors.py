"""Everything that can go wrong, and the code each failure carries to the outside.

PilotError
├── BadRecord            one record is unusable: it becomes a dead letter, the stream goes on
├── UsageError           wrong settings, arguments or input: exit 2
├── OperationFailed      the command could not do its work: exit 1
└── WorkerMustStop       the process cannot go on safely: exit 70 to 74, a supervisor restarts it
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of every `pilot` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    HOLE = 70
    STALLED = 71
    SEND_FAILED = 72
    LEASE_LOST = 73
    STATE_BROKEN = 74
    INTERRUPTED = 130


class DeadLetterCode(StrEnum):
    """Why a record was set aside. The list is closed and ordered: the first that applies wins."""

    INVALID_JSON = "invalid_json"
    INVALID_EVENT = "invalid_event"
    INVALID_KEY = "invalid_key"
    WRONG_PARTITION = "wrong_partition"
    INVALID_EMBEDDING = "invalid_embedding"
    UNKNOWN_QUERY = "unknown_query"
    UNKNOWN_MODEL = "unknown_model"
    NOT_ROUTED = "not_routed"


class PilotError(Exception):
    """Base of every error this package raises on purpose."""


class BadRecord(PilotError):
    """A record that cannot be processed, with the code and message of its dead letter."""

    def __init__(self, code: DeadLetterCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class UsageError(PilotError):
    """Wrong settings, arguments or input files. Operator action: correct what the line names."""


class OperationFailed(PilotError):
    """A command could not finish. Operator action: see the line; repeating it is safe."""


class WorkerMustStop(PilotError):
    """The worker must leave at once. Operator action: none if a supervisor restarts it."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
