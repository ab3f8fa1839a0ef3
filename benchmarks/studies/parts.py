"""Parts of the router switched off or changed, all scores of the train rows known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from studies.stage import Stage
from worker.core.arms import Arm
from worker.core.beliefs import Beliefs, LearnedBeliefs
from worker.core.costs import log_costs
from worker.core.paper import MeanCosts
from worker.core.prior import Prior, default_prior
from worker.core.projection import Projection
from worker.core.router import RouterOptions
from worker.core.statistics import ArmStatistics, Moments
from worker.evaluate.experiment import Run
from worker.pretrain.features import sample
from worker.pretrain.table import _calibration

STRENGTHS = (0.03, 0.1, 0.3, 3.0)


def features(stage: Stage) -> Iterator[Run]:
    """Which features carry the gain, and whether costs need a context."""
    full = stage.warm()
    yield stage.frozen("all features, task not told", stage.router(full), stage.contexts(full))
    plain = stage.warm(replace(full.projection, clusters=None))
    yield stage.frozen("no clusters: embedding alone", stage.router(plain), stage.contexts(plain))
    shipped = stage.warm(default_prior().projection)
    yield stage.frozen("shipped projection in place of one's own", stage.router(shipped), stage.contexts(shipped))
    bare = stage.warm(replace(full.projection, clusters=None, components=full.projection.components[:0]))
    yield stage.frozen("no features: means alone", stage.router(bare), stage.contexts(bare))
    if stage.table.labels is not None:
        told = stage.warm(tasks=True)
        yield stage.frozen("all features and the task", stage.router(told), stage.contexts(told, tasks=True))
    means = stage.router(full, beliefs=lambda arms: _mean_costs(full, arms))
    yield stage.frozen("mean costs in place of contextual ones", means, stage.contexts(full))
    disjoint = stage.router(full, RouterOptions(rewards="disjoint"))
    yield stage.frozen("disjoint arms in place of coupled ones", disjoint, stage.contexts(full))


def ridge(stage: Stage) -> Iterator[Run]:
    """A plain ridge of every model on the embedding, penalty 1, in place of coupled arms with a fitted prior.

    Its costs are a ridge on the same features, as ours are, and the same pacing spends the money.
    """
    full = stage.warm()
    yield stage.frozen("coupled arms, all features", stage.router(full), stage.contexts(full))
    components = replace(full.projection, clusters=None)
    size = components.embedding_dimension
    whole = replace(components, mean=np.zeros(size), components=np.eye(size))
    for name, projection in (("ridge on 25 components", components), ("ridge on the whole embedding", whole)):
        prior = _summed(stage, projection)
        yield stage.frozen(name, stage.router(prior, RouterOptions(rewards="disjoint")), stage.contexts(prior))


def _summed(stage: Stage, projection: Projection) -> Prior:
    """All scores of the train rows in these features; a plain ridge has no hyper-parameters to look for."""
    table, rows = stage.table, stage.split.train
    contexts = projection.contexts(stage.material.embeddings, table.prompts, table.tasks)[rows]
    nothing, costs = Moments.zeros(projection.dimension), table.costs[rows]
    scored = [ArmStatistics(Moments.of(contexts, r), nothing) for r in table.rewards[rows].T]
    priced = [Moments.of(contexts, log_costs(c, c.mean())) for c in costs.T]
    return replace(
        stage.warm(), projection=projection, contexts=sample(contexts, 0),
        statistics=dict(zip(table.models, scored, strict=True)), log_costs=dict(zip(table.models, priced, strict=True)),
        calibration=dict(zip(table.models, _calibration(contexts, costs, priced), strict=True)),
    )  # fmt: skip


def strength(stage: Stage) -> Iterator[Run]:
    """The table's sums scaled: what fewer or more rows of the same kind would weigh."""
    full = stage.warm()
    contexts = stage.contexts(full)
    yield stage.frozen("prior × 1", stage.router(full), contexts)
    for factor in STRENGTHS:
        scaled = {model: ArmStatistics(_scaled(a.reward, factor), a.log_tokens) for model, a in full.statistics.items()}
        yield stage.frozen(f"prior × {factor:g}", stage.router(replace(full, statistics=scaled)), contexts)


def _scaled(moments: Moments, factor: float) -> Moments:
    return Moments(
        moments.A * factor, moments.b * factor, round(moments.n * factor), moments.total * factor,
        moments.squares * factor,
    )  # fmt: skip


def _mean_costs(prior: Prior, arms: Sequence[Arm]) -> Beliefs:
    beliefs = LearnedBeliefs(prior, arms, 0.95, "coupled", "table")
    listed = np.array([prior.mean_costs[arm.model] for arm in arms])
    beliefs.costs = MeanCosts(listed, 0 * listed, 0 * listed, 0 * listed)
    return beliefs
