"""Tenure: which assignment the state in memory belongs to, and whether this worker may still write for it.

One assignment object covers both source topics, so whichever agent meets a new one
first begins it for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.stream.batch import Journal
from worker.stream.commits import ConsumerThread, Lease
from worker.stream.state import State


class Tenure:
    """Also the lane's view of ownership (`worker.stream.lane.Ownership`)."""

    def __init__(self, lease: Lease, thread: Callable[[], ConsumerThread], fresh_state: Callable[[], State]) -> None:
        self.journal = Journal(fresh_state())
        self.assignment: Any = None
        self.generation: int | None = None
        self.began: list[Callable[[], None]] = []
        self.check_pause: Callable[[], None] = lambda: None
        self._lease = lease
        self._thread = thread
        self._fresh_state = fresh_state

    def enter(self, assignment: Any) -> None:
        """Begin anew if this is another assignment: nothing of the last one may leave any more."""
        self.check_pause()  # after a long pause this worker may be a zombie
        if assignment is self.assignment:
            return
        for _, _, event in self.journal.turn().covered:
            event.ack()
        self.assignment = assignment
        self.generation = self._thread().generation
        self.journal.state = self._fresh_state()
        for call in self.began:
            call()

    def enter_current(self) -> bool:
        """Begin whatever is assigned now; False while nothing is."""
        assignment = self._thread().active_assignment
        if assignment is None:
            return False
        self.enter(assignment)
        return True

    def lanes(self, topic: str) -> int:
        """How many partitions of this topic the current assignment has."""
        return sum(partition.topic == topic for partition in self.assignment.tps)

    @property
    def doubtful(self) -> bool:
        """Whether no heartbeat succeeded recently enough to write."""
        return not self._lease.held

    def owns(self, assignment: Any, generation: int | None) -> bool:
        """Whether the assignment is active and its generation is still the coordinator's."""
        return bool(assignment.active) and self._thread().coordinator_generation == generation
