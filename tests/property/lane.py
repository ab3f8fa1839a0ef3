"""One lane without Kafka: queries and feedback of one user, applied with the worker's own transitions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from tests.unit.core.lives import choice, lookup, parked
from worker.core.fence import Event, Source
from worker.core.lifecycle import Choice, Feedback, ModelLookup, Pending, decide, feed, park
from worker.stream import effects
from worker.stream.batch import Journal
from worker.stream.state import State

QUICK = settings(deadline=None, derandomize=True, max_examples=100)
WINDOW = 0


@dataclass(frozen=True)
class World:
    """Choices and windows by query offset (no choice: rejected) and feedback by offset, each about one query."""

    choices: tuple[Choice | None, ...]
    feedback: tuple[tuple[int, Feedback], ...]
    windows: tuple[int, ...] = ()


@dataclass
class Lane:
    """What a worker holds in memory for one partition."""

    world: World
    pending: dict[int, Pending] = field(default_factory=dict)
    lookup: ModelLookup = lookup
    journal: Journal = field(default_factory=lambda: Journal(State(_nothing, _nothing, _nothing)))

    def query(self, offset: int) -> None:
        before = self.pending.get(offset, Pending())
        event = Event(Source.QUERY, offset)
        if before.decision is None:
            before, _ = decide(
                before,
                decision=b"{}",
                event=event,
                window=self.world.windows[offset] if self.world.windows else WINDOW,
                choice=self.world.choices[offset],
                timestamp=0,
                parse=lambda value: self.world.feedback[int(value)][1],
                lookup=self.lookup,
            )
        self.pending[offset] = before
        effects.apply(self.journal, 0, "user", before, event, rewarding=True)

    def feedback(self, offset: int) -> None:
        about, said = self.world.feedback[offset]
        before = self.pending.get(about, Pending())
        if before.decision is None:
            self.pending[about], _ = park(before, parked(offset, str(offset).encode()), said)
            return
        event = Event(Source.FEEDBACK, offset)
        self.pending[about], _ = feed(before, said, event, 0, self.lookup)
        effects.apply(self.journal, 0, "user", self.pending[about], event, rewarding=True)

    def replay(self, queries: int, feedback: int, order: list[bool]) -> None:
        """Both logs from these offsets to their ends, interleaved as `order` says (True: a query)."""
        turns = iter(order)
        while queries < len(self.world.choices) or feedback < len(self.world.feedback):
            wanted = next(turns, True)
            if queries < len(self.world.choices) and (wanted or feedback == len(self.world.feedback)):
                self.query(queries)
                queries += 1
            else:
                self.feedback(feedback)
                feedback += 1

    def windows(self) -> dict[int, tuple[int, int, int, int]]:
        """Settled, reserved, expected and queries of each window that has any."""
        entries = self.journal.state.spend._entries
        return {
            key.window: (spend.settled, spend.reserved, spend.expected, spend.queries)
            for key, (spend, _) in sorted(entries.items())
            if spend is not None
        }

    def totals(self) -> dict[str, Any]:
        """Everything that must not depend on order, duplicates or replays."""
        found: dict[str, Any] = {"spend": self.windows()}
        for key, (shard, _) in self.journal.state.shards._entries.items():
            if shard is None:
                continue
            sums = shard.statistics
            found[key.model] = (
                sums.reward.n,
                round(sums.reward.total, 9),
                sums.log_tokens.n,
                sums.output_tokens,
                sums.costs_settled,
                sums.cost_true_nanos,
                sums.cost_predicted_nanos,
                sums.errors,
            )
        return found

    def copy(self) -> Lane:
        return copy.deepcopy(self)


def _nothing(*_: object) -> None:
    return None


def _feedback(**said: Any) -> Feedback:
    """Only what is said: of a named tuple `builds` would make up the other fields too."""
    return Feedback(**said)


feedbacks = st.one_of(
    st.builds(
        _feedback,
        reward=st.none() | st.floats(0, 1),
        cost_nanos=st.integers(0, 10**9),
        failed=st.booleans(),
        model=st.sampled_from([None, "small", "large", "unheard-of"]),
    ),
    st.builds(_feedback, reward=st.floats(0, 1), model=st.sampled_from([None, "small", "large", "unheard-of"])),
    st.builds(
        _feedback,
        reward=st.none() | st.floats(0, 1),
        input_tokens=st.integers(0, 1000),
        output_tokens=st.integers(0, 1000),
        model=st.sampled_from([None, "large"]),
    ),
    st.builds(_feedback, failed=st.just(True)),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    choices = draw(
        st.lists(st.sampled_from([choice(), choice("large", reservation=7, expected=3), None]), min_size=1, max_size=3)
    )
    about = st.tuples(st.integers(0, len(choices) - 1), feedbacks)
    windows = sorted(draw(st.sampled_from([WINDOW, WINDOW + 60, WINDOW + 120])) for _ in choices)
    return World(tuple(choices), tuple(draw(st.lists(about, max_size=8))), tuple(windows))


orders = st.lists(st.booleans(), max_size=12)
