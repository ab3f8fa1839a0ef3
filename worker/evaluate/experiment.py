"""One evaluation run: prior, learning rounds, test rounds; and all runs of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from worker.core.arms import Arm
from worker.core.paper import as_published
from worker.core.policies import SUPPORTED
from worker.core.prior import Prior, default_prior
from worker.core.router import Router, RouterOptions
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.evaluate.baselines import BASELINES, Task, static_mix
from worker.evaluate.lookup import Lookup, label_contexts, lookup_prior
from worker.evaluate.replay import Outcome, Replay
from worker.evaluate.table import Split, Table
from worker.evaluate.traffic import Crowd, Traffic, crowd_traffic, in_order
from worker.pretrain.table import build

PriorSource = Literal["table", "bandit", "none", "file"]
LOOKUP, CEILING = "label-lookup", "ceiling"
_AMPLE = 2.0  # × the dearest call: a budget that never binds
POLICIES = (*SUPPORTED, *BASELINES, LOOKUP, CEILING)


@dataclass(frozen=True)
class Comparison:
    """What is compared, as the command's options say it.

    `artefact` belongs to the source `file`, `learn` is its number of learning rounds.
    """

    policies: Sequence[str]
    budgets: Sequence[float]
    source: PriorSource = "table"
    artefact: Prior | None = None
    learn: int | None = None
    freeze: bool = False
    crowd: Crowd = field(default_factory=Crowd)
    delay: int = 0
    seeds: int = 3
    router: RouterOptions = field(default_factory=RouterOptions)


class Cell(NamedTuple):
    """One budget on one split and seed: the rounds, and the baselines that everything is compared with."""

    budget: float
    split: int
    seed: int
    task: Task
    static: Outcome
    lookup: Outcome | None


class Run(NamedTuple):
    """What one policy made of a cell; the learning rounds before it, where there were any."""

    policy: str
    cell: Cell
    outcome: Outcome
    learning_task: Task | None = None
    learning: Outcome | None = None


def check(table: Table, encoder_id: str, splits: Sequence[Split], comparison: Comparison) -> None:
    """Refuse what cannot be compared; needs no embeddings, so it can be asked before the encoding.

    Raises:
        UsageError: a policy, a preset or a prior that does not fit the table or the encoder,
            or a best model that costs nothing, of which no budget is a share.
    """
    _check_cost(table, splits)
    if LOOKUP in comparison.policies and table.labels is None:
        raise UsageError(f"--policy {LOOKUP}: needs the labels; name their column with --label-column")
    artefact = comparison.artefact
    if comparison.router.rewards == "paper" and comparison.source == "table":
        raise UsageError("--preset paper: starts from preferences or from nothing; --prior bandit, none or FILE")
    if artefact is None:
        return
    if artefact.encoder != encoder_id:
        raise UsageError(
            f"the prior was fitted with encoder {artefact.encoder!r}, this run uses {encoder_id!r}; "
            "set PILOT_ENCODER, or build it again with `pilot pretrain`"
        )
    unknown = [model for model in table.models if model not in artefact.models]
    if artefact.models and unknown:
        raise UsageError(
            f"{table.name}: the prior does not know {', '.join(unknown)}; "
            "name the models to use with --model, or build it again with `pilot pretrain`"
        )


def _check_cost(table: Table, splits: Sequence[Split]) -> None:
    for split in splits:
        best = int(table.rewards[split.test].mean(axis=0).argmax())
        if not table.costs[split.test, best].any():
            raise UsageError(
                f"{table.name}: the best model, {table.models[best]!r}, costs nothing on the test rows, so no budget "
                "is a share of its cost; correct its costs, or leave it out with --model"
            )


class Bench:
    """Runs a comparison over a table with its embeddings (n, E), split by split."""

    def __init__(
        self, table: Table, embeddings: FloatArray, encoder_id: str, splits: Sequence[Split], comparison: Comparison
    ) -> None:
        self._table = table
        self._embeddings = embeddings
        self._encoder = encoder_id
        self._splits = splits
        self._plan = comparison
        check(table, encoder_id, splits, comparison)

    @property
    def count(self) -> int:
        """How many runs there will be."""
        plan = self._plan
        return len(self._splits) * len(plan.budgets) * plan.seeds * len(plan.policies)

    def runs(self) -> Iterator[Run]:
        """Every run, in the order split, budget, seed, policy."""
        for number, split in enumerate(self._splits):
            stage = _Stage(self._table, self._embeddings, self._encoder, split, self._plan)
            for budget in self._plan.budgets:
                for seed in range(self._plan.seeds):
                    yield from stage.runs(number, budget, seed)


class _Stage:
    """One split: its prior, the contexts under that prior, and the runs on it."""

    def __init__(
        self, table: Table, embeddings: FloatArray, encoder_id: str, split: Split, comparison: Comparison
    ) -> None:
        self._table, self._split, self._plan = table, split, comparison
        self._best = int(table.rewards[split.test].mean(axis=0).argmax())
        self._embeddings, self._encoder = embeddings, encoder_id
        self._labels = None if table.labels is None else label_contexts(table)

    @cached_property
    def _full(self) -> Prior:
        """The prior that knows all scores of the train rows."""
        table, train = self._table, self._split.train
        return build(
            [table.prompts[row] for row in train],
            table.rewards[train],
            table.costs[train],
            table.models,
            self._embeddings[train],
            encoder_id=self._encoder,
            tasks=[table.tasks[row] for row in train],
        )

    @cached_property
    def _prior(self) -> Prior:
        """The one that policies start from: the train rows' mean costs are its price list where it has none."""
        if self._plan.source == "table":
            return self._full
        prior = self._plan.artefact or default_prior()
        if self._plan.router.rewards == "paper":
            prior = as_published(prior)
        if prior.mean_costs:
            return prior
        means = self._table.costs[self._split.train].mean(axis=0).tolist()
        return replace(prior, mean_costs=dict(zip(self._table.models, means, strict=True)))

    @cached_property
    def _full_contexts(self) -> FloatArray:
        return self._contexts(self._full)

    @cached_property
    def _own_contexts(self) -> FloatArray:
        return self._full_contexts if self._plan.source == "table" else self._contexts(self._prior)

    def _contexts(self, prior: Prior) -> FloatArray:
        return prior.projection.contexts(self._embeddings, self._table.prompts, self._table.tasks)

    def runs(self, number: int, budget: float, seed: int) -> Iterator[Run]:
        generator = np.random.default_rng((seed, number, 1))
        traffic = crowd_traffic(self._split.test, self._plan.crowd, generator)
        task = self._task(traffic, budget * float(self._table.costs[self._split.test, self._best].mean()))
        cell = Cell(budget, number, seed, task, static_mix(task), self._lookup(task, seed))
        for policy in self._plan.policies:
            yield self._run(policy, cell)

    def _task(self, traffic: Traffic, allowed_usd: float) -> Task:
        return Task(self._table, traffic, self._split.train, self._best, allowed_usd)

    def _run(self, policy: str, cell: Cell) -> Run:
        if policy in BASELINES:
            return Run(policy, cell, BASELINES[policy](cell.task))
        if policy == LOOKUP:
            assert cell.lookup is not None
            return Run(policy, cell, cell.lookup)
        if policy == CEILING:
            return Run(policy, cell, self._ceiling(cell.task, cell.seed))
        return self._learned(policy, cell)

    def _learned(self, policy: str, cell: Cell) -> Run:
        published = self._plan.router.rewards == "paper"
        # The paper's buckets follow each other here: train rows learn without a budget, test rows deploy.
        options = replace(self._plan.router, policy=policy, learning_share=1.0 if published else None)
        router = self._router(self._prior, options)
        task = self._learning_task(cell.budget, cell.split, cell.seed)
        if published and task is not None:
            task = replace(task, allowed_usd=_AMPLE * float(self._table.costs.max()))
        learning = None if task is None else self._replay(router, task, self._own_contexts, -cell.seed - 1)
        freeze = self._plan.freeze or published
        if freeze:
            router.freeze()
        outcome = self._replay(router, cell.task, self._own_contexts, cell.seed, learn=not freeze)
        return Run(policy, cell, outcome, task, learning)

    def _learning_task(self, budget: float, number: int, seed: int) -> Task | None:
        train, plan = self._split.train, self._plan
        rounds = len(train) if plan.source == "bandit" else plan.learn or 0
        if not rounds:
            return None
        traffic = in_order(train, np.random.default_rng((seed, number, 2)))
        if rounds < len(train):
            kept = in_order(traffic.rows[:rounds], np.random.default_rng((seed, number, 3)))
            traffic = replace(kept, rows=traffic.rows[:rounds])
        return self._task(traffic, budget * float(self._table.costs[traffic.rows, self._best].mean()))

    def _ceiling(self, task: Task, seed: int) -> Outcome:
        options = replace(self._plan.router, policy="pacing", rewards="coupled", learning_share=None)
        router = self._router(self._full, options)
        router.freeze()
        return self._replay(router, task, self._full_contexts, seed, learn=False)

    def _lookup(self, task: Task, seed: int) -> Outcome | None:
        if self._labels is None:
            return None
        options = replace(self._plan.router, policy="pacing", detail="chosen", rewards="coupled", learning_share=None)
        beliefs = Lookup(self._table, self._split.train, options.reserve_quantile)
        router = Router(lookup_prior(self._labels, self._split.train), options, lambda _arms: beliefs)
        router.set_arms(self._arms)
        router.freeze()
        return self._replay(router, task, self._labels, seed, learn=False)

    @property
    def _arms(self) -> list[Arm]:
        return [Arm(model) for model in self._table.models]

    def _router(self, prior: Prior, options: RouterOptions) -> Router:
        router = Router(prior, replace(options, costs="table", detail="chosen", open_decisions=self._plan.delay > 0))
        router.set_arms(self._arms)
        return router

    def _replay(self, router: Router, task: Task, contexts: FloatArray, seed: int, *, learn: bool = True) -> Outcome:
        replay = Replay(router, self._table, contexts, delay=self._plan.delay, learn=learn)
        return replay.run(task.traffic, task.allowed_usd, seed)
