"""A world that changes half-way: prices, quality, kinds of query. The router learns all the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from studies.stage import Stage
from worker.core.router import Router
from worker.core.verdict import FloatArray
from worker.evaluate.baselines import Task, gateway
from worker.evaluate.experiment import Run
from worker.evaluate.traffic import in_order

DROP = 0.5  # × the best model's reward, from the middle on


def drift(stage: Stage) -> Iterator[Run]:
    """Warm and cold, learning on, against the gateway; the baseline is the best static mix of the changed rounds."""
    table = stage.table
    dearer, worse = table.costs.copy(), table.rewards.copy()
    dearer[:, stage.best] *= 2.0
    worse[:, stage.best] *= DROP
    yield from _all(stage, "no change", stage.task())
    yield from _all(stage, "best model's price doubles", _later(stage, table.rewards, dearer))
    yield from _all(stage, "best model's quality halves", _later(stage, worse, table.costs))
    if table.labels is not None:
        yield from _all(stage, "kinds of query in blocks", _blocks(stage))


def _all(stage: Stage, name: str, task: Task) -> Iterator[Run]:
    warm, cold = stage.warm(), stage.priced()
    yield _play(stage, f"{name}: warm", stage.router(warm), stage.contexts(warm), task)
    frozen = stage.router(warm)
    frozen.freeze()
    yield _play(stage, f"{name}: warm, frozen", frozen, stage.contexts(warm), task, learn=False)
    yield _play(stage, f"{name}: cold", stage.router(cold), stage.contexts(cold), task)
    yield stage.run(f"{name}: gateway", task, gateway(task))


def _play(stage: Stage, name: str, router: Router, contexts: FloatArray, task: Task, *, learn: bool = True) -> Run:
    copies = len(task.table.prompts) // len(contexts)
    return stage.run(name, task, stage.replay(router, np.tile(contexts, (copies, 1)), task, learn=learn))


def _later(stage: Stage, rewards: FloatArray, costs: FloatArray) -> Task:
    """The same rounds; those of the second half are rows of a changed copy of the table."""
    old = stage.table
    both = replace(
        old, prompts=old.prompts * 2, tasks=old.tasks * 2, labels=None,
        rewards=np.vstack([old.rewards, rewards]), costs=np.vstack([old.costs, costs]),
    )  # fmt: skip
    traffic = in_order(stage.split.test, stage.generator(1))
    half = np.arange(len(traffic.rows)) >= len(traffic.rows) // 2
    return stage.task(replace(traffic, rows=traffic.rows + half * len(old.prompts)), both)


def _blocks(stage: Stage) -> Task:
    traffic = in_order(stage.split.test, stage.generator(1))
    names = np.array(stage.table.labels)[traffic.rows]
    order = stage.generator(4).permutation(np.unique(names)).tolist()
    place = np.argsort([order.index(name) for name in names], kind="stable")
    return stage.task(replace(traffic, rows=traffic.rows[place]))
