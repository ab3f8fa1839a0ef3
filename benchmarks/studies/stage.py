"""One split, seed and budget of a table: its priors, its rounds, and how a router plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from worker.core.arms import Arm
from worker.core.prior import Prior, default_prior
from worker.core.projection import Projection
from worker.core.router import MakeBeliefs, Router, RouterOptions
from worker.core.verdict import FloatArray
from worker.evaluate.baselines import Task, static_mix
from worker.evaluate.experiment import Cell, Run
from worker.evaluate.replay import Outcome, Replay
from worker.evaluate.table import Split, Table
from worker.evaluate.traffic import Traffic, in_order
from worker.pretrain.table import build

MakeRouter = Callable[[Prior, RouterOptions], Router]
AMPLE_USD = 1e3  # a mean cost a query that never binds


@dataclass(frozen=True)
class Material:
    """A table, embeddings (n, E) of its prompts, the encoder's id, splits to draw from.

    `battle_share` of the train rows are battles where a study has both battles and rounds.
    """

    table: Table
    embeddings: FloatArray
    encoder_id: str
    splits: Sequence[Split]
    battle_share: float


@dataclass
class Stage:
    """One cell's material. `number` is the split's; the budget is a share of the best model's cost."""

    material: Material
    number: int
    seed: int
    budget: float
    fitted: dict[str, Prior] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The table."""
        return self.material.table

    @property
    def split(self) -> Split:
        """Train and test rows."""
        return self.material.splits[self.number]

    @property
    def best(self) -> int:
        """The model with the highest mean reward on the test rows."""
        return int(self.table.rewards[self.split.test].mean(axis=0).argmax())

    def warm(self, projection: Projection | None = None, *, tasks: bool = False) -> Prior:
        """All scores of the train rows known."""
        if projection is None and not tasks and "warm" in self.fitted:
            return self.fitted["warm"]
        table, rows = self.table, self.split.train
        labels = table.labels if tasks else None
        prior = build(
            [table.prompts[row] for row in rows], table.rewards[rows], table.costs[rows], table.models,
            self.material.embeddings[rows], encoder_id=self.material.encoder_id,
            tasks=None if labels is None else [labels[row] for row in rows], projection=projection,
        )  # fmt: skip
        if projection is None and not tasks:
            self.fitted["warm"] = prior
        return prior

    def priced(self, prior: Prior | None = None) -> Prior:
        """A prior without rewards of the train rows, the shipped one if None; mean costs are known."""
        means = self.table.costs[self.split.train].mean(axis=0).tolist()
        return replace(prior or default_prior(), mean_costs=dict(zip(self.table.models, means, strict=True)))

    def contexts(self, prior: Prior, *, tasks: bool = False) -> FloatArray:
        """ψ of every row, shape (n, d)."""
        labels = self.table.labels if tasks and self.table.labels is not None else self.table.tasks
        return prior.projection.contexts(self.material.embeddings, self.table.prompts, labels)

    def generator(self, purpose: int) -> np.random.Generator:
        """Its own stream of numbers for each purpose."""
        return np.random.default_rng((self.seed, self.number, purpose))

    def task(self, traffic: Traffic | None = None, table: Table | None = None, allowed: float | None = None) -> Task:
        """The test rounds under the budget."""
        mean = float(self.table.costs[self.split.test, self.best].mean())
        return Task(
            table or self.table, traffic or in_order(self.split.test, self.generator(1)), self.split.train, self.best,
            allowed or self.budget * mean,
        )  # fmt: skip

    def lessons(self, rows: np.ndarray | None = None, *, free: bool = False) -> Task:
        """The train rows, or some of them, as bandit rounds under the same share of cost; `free`: without a budget."""
        chosen = self.split.train if rows is None else rows
        traffic = in_order(chosen, self.generator(2))
        return self.task(traffic, allowed=AMPLE_USD if free else None)

    def router(
        self,
        prior: Prior,
        options: RouterOptions | None = None,
        beliefs: MakeBeliefs | None = None,
        kind: type[Router] = Router,
        *,
        open_decisions: bool = False,
    ) -> Router:
        """A router over the table's models."""
        chosen = options or RouterOptions()
        made = kind(prior, replace(chosen, costs="table", detail="chosen", open_decisions=open_decisions), beliefs)
        made.set_arms([Arm(model) for model in self.table.models])
        return made

    def replay(self, router: Router, contexts: FloatArray, task: Task, *, learn: bool) -> Outcome:
        """The rounds through the router."""
        seed = self.seed if learn is False else -self.seed - 1
        return Replay(router, task.table, contexts, learn=learn).run(task.traffic, task.allowed_usd, seed)

    def run(self, name: str, task: Task, outcome: Outcome, learning: tuple[Task, Outcome] | None = None) -> Run:
        """What is measured, beside the static mix on the same rounds."""
        cell = Cell(self.budget, self.number, self.seed, task, static_mix(task), None)
        return Run(name, cell, outcome, *(learning or ()))

    def frozen(self, name: str, router: Router, contexts: FloatArray, task: Task | None = None) -> Run:
        """The test rounds with what is known now."""
        rounds = task or self.task()
        router.freeze()
        return self.run(name, rounds, self.replay(router, contexts, rounds, learn=False))

    def learned(
        self, name: str, router: Router, contexts: FloatArray, lessons: Task | None = None, task: Task | None = None
    ) -> Run:
        """Lessons first, then the test rounds with what was learned."""
        first = lessons or self.lessons()
        outcome = self.replay(router, contexts, first, learn=True)
        return self.frozen(name, router, contexts, task)._replace(learning_task=first, learning=outcome)
