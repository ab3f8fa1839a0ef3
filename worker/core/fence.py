"""Fences: which source events a stored value already contains.

A value that two topics change carries one fence per topic. An effect is applied
only if its event lies above the fence, so a replay of either topic, in any
interleaving, changes nothing twice. Per key, never per partition.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Source(StrEnum):
    """The topic whose event had an effect."""

    QUERY = "Q"
    FEEDBACK = "F"


class Event(NamedTuple):
    """A record of a source topic, within one partition number."""

    source: Source
    offset: int


class Fence(NamedTuple):
    """The highest offset of each source topic that a value contains; -1: none."""

    query: int = -1
    feedback: int = -1

    def contains(self, event: Event) -> bool:
        """Whether the effect of `event` is already part of the value."""
        return event.offset <= (self.query if event.source is Source.QUERY else self.feedback)

    def raised(self, event: Event) -> Fence:
        """The fence after the effect of `event`."""
        if event.source is Source.QUERY:
            return Fence(event.offset, self.feedback)
        return Fence(self.query, event.offset)
