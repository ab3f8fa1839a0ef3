"""Progress: how far the broker says each source partition is committed, and whether that is recent.

A partition is current if its commits have reached what was its end a moment ago.
What expires by broker time waits for that: a worker that comes back after days first
decides and settles what has piled up, under the budgets of its own time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CURRENT_S = 15.0  # several probes of the watchdog, which come every two seconds


@dataclass(frozen=True, slots=True)
class _Mark:
    """The end at some time, and since when the commits have reached an earlier one (None: never)."""

    committed: int
    end: int
    at: float
    reached: float | None


class Progress:
    """What the last probe of this worker's source partitions found."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, int], _Mark] = {}

    def note(self, offsets: Mapping[Any, tuple[int, int]]) -> list[tuple[str, int]]:
        """Take over committed and end offset by partition; the partitions that are no longer among them."""
        now, before = time.monotonic(), self._marks
        self._marks = {}
        for tp, (committed, end) in offsets.items():
            place = (tp.topic, tp.partition)
            mark = before.get(place) or _Mark(committed, end, now, None)
            if committed >= mark.end:
                self._marks[place] = _Mark(committed, end, now, mark.at)
            else:
                self._marks[place] = _Mark(committed, mark.end, mark.at, mark.reached)
        return sorted(before.keys() - self._marks.keys())

    def committed(self, topic: str, partition: int) -> int | None:
        """The committed offset of a partition that is current; None: it lags, or nothing is known of it."""
        mark = self._marks.get((topic, partition))
        if mark is None or mark.reached is None or time.monotonic() - mark.reached > CURRENT_S:
            return None
        return mark.committed
