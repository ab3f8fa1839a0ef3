"""What the caller has seen so far: the one record of the run that progress and report read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from worker.core.verdict import FloatArray
from worker.demo.baselines import IntArray
from worker.demo.data import Dataset
from worker.demo.plan import PlannedQuery


@dataclass(frozen=True, slots=True)
class Answer:
    """One decision as the caller received it; `model` None: rejected, with `reason`."""

    query: PlannedQuery
    model: str | None
    reason: str | None
    received_ms: float
    reward: float
    cost_usd: float
    value: bytes


@dataclass(slots=True)
class Tally:
    """Counts and answers of one run; times in milliseconds since the epoch."""

    dataset: Dataset
    answers: dict[str, Answer] = field(default_factory=dict)
    asked_ms: dict[str, float] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    repeats_same: int = 0
    repeats_different: int = 0
    expected_dead: Counter[str] = field(default_factory=Counter)
    letters: dict[tuple[str, ...], str] = field(default_factory=dict)
    policy: str = ""
    spent_usd: float = 0.0
    earned: float = 0.0
    best_earned: float = 0.0

    def answered(self, answer: Answer, best: int) -> None:
        """Count the first decision on a query; `best` is the column of the best model."""
        self.answers[answer.query.query_id] = answer
        self.spent_usd += answer.cost_usd
        self.earned += answer.reward
        self.best_earned += float(self.dataset.stream.rewards[answer.query.row, best])

    def repeated(self, query_id: str, value: bytes) -> None:
        """Count a later decision on the same query: it must be the recorded one, byte for byte."""
        if self.answers[query_id].value == value:
            self.repeats_same += 1
        else:
            self.repeats_different += 1

    def set_aside(self, source: tuple[str, ...], code: str) -> None:
        """Count a dead letter once by where its record came from: delivery is at least once."""
        self.letters[source] = code

    @property
    def dead(self) -> Counter[str]:
        """Records set aside, by code."""
        return Counter(self.letters.values())

    @property
    def repeats(self) -> int:
        """Decisions received again."""
        return self.repeats_same + self.repeats_different

    @property
    def quality_share(self) -> float:
        """Mean reward so far ÷ the best model's on the same queries; 0 before the first."""
        return self.earned / self.best_earned if self.best_earned else 0.0

    @property
    def rejected(self) -> int:
        """Queries turned away."""
        return sum(answer.model is None for answer in self.answers.values())

    def in_order(self) -> list[Answer]:
        """Answers in the order in which their queries were planned."""
        return sorted(self.answers.values(), key=lambda answer: answer.query.at_s)

    def latencies_ms(self, *, embedded: bool) -> FloatArray:
        """Milliseconds from the query's broker timestamp to the caller's receipt of the decision."""
        return np.array(
            [
                answer.received_ms - self.asked_ms[query_id]
                for query_id, answer in self.answers.items()
                if answer.query.embedded == embedded and query_id in self.asked_ms
            ]
        )


@dataclass(frozen=True, slots=True)
class Streamed:
    """The answered queries as arrays, in order of time.

    rewards and costs (n, K), choice (n,) a column or -1, user (n,) the number of who
    asked, at_s (n,) seconds since the start of the stream.
    """

    rewards: FloatArray
    costs: FloatArray
    choice: IntArray
    user: IntArray
    at_s: FloatArray


def streamed(tally: Tally, users: list[str]) -> Streamed:
    """Turn the answers into arrays."""
    answers, names = tally.in_order(), tally.dataset.names
    rows = [answer.query.row for answer in answers]
    return Streamed(
        rewards=tally.dataset.stream.rewards[rows],
        costs=tally.dataset.stream.costs[rows],
        choice=np.array([-1 if answer.model is None else names.index(answer.model) for answer in answers]),
        user=np.array([users.index(answer.query.user_id) for answer in answers]),
        at_s=np.array([answer.query.at_s for answer in answers]),
    )
