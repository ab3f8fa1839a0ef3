"""The last exit: a worker leaves a note when it ends, and reads its predecessor's when it starts.

The note says "running" meanwhile, so a process that was killed without a word is told from one that left.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.errors import ExitCode

FILE = "last-exit.json"
RUNNING = "running"
KILLED = "killed"


@dataclass(frozen=True, slots=True)
class LastExit:
    """How a process of this worker ended; `code` None: nobody saw it end. `at` in seconds since the epoch.

    `reason` is one of a few words (the exit code's name, or `killed`), `detail` is text for people.
    """

    code: int | None
    reason: str
    detail: str
    at: float


class ExitNote:
    """The note in a worker's own folder. Writing it never fails loudly: an exit must not be held up."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> LastExit | None:
        """How the process before this one ended; None: there was none, or its note is not readable."""
        try:
            found = LastExit(**json.loads(self.path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        if found.reason == RUNNING:
            return LastExit(None, KILLED, "the process ended without a word", found.at)
        return found

    def begin(self) -> bool:
        """This process runs; False: the note cannot be written, and the next process will read an older one."""
        return self._write(LastExit(None, RUNNING, "", time.time()))

    def end(self, code: ExitCode, detail: str) -> None:
        """This process is about to leave."""
        self._write(LastExit(int(code), code.name.lower(), detail, time.time()))

    def _write(self, note: LastExit) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(asdict(note)), "utf-8")
            part.replace(self.path)
        except OSError:
            return False
        return True
