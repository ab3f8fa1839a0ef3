"""The paper's rivals on equal terms: same features, same rewards, another way to learn or to spend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from studies.stage import Stage
from studies.votes import battles_of, shared_out
from worker.core.eligibility import Nanos
from worker.core.paper import as_published
from worker.core.policies.zcl import Zcl
from worker.core.prior import Prior
from worker.core.router import MakeBeliefs, Router, RouterOptions
from worker.core.verdict import Account, FloatArray, Request, Verdict
from worker.evaluate.baselines import chosen
from worker.evaluate.experiment import Run
from worker.evaluate.replay import Outcome
from worker.pretrain import triplet

PUBLISHED = RouterOptions(policy="zcl", rewards="paper", reserve="expected", learning_share=1.0)
ALPHAS = (0.0, 0.05, 0.1, 0.3, 1.0, 2.0, 5.0)


def learning(stage: Stage) -> Iterator[Run]:
    """PILOT as published and its rivals, learning on the rows without battles, deployed by `zcl` with bins.

    Epoch-greedy learns only in its exploration rounds, about n^(2/3) of n, so what it
    deploys is explore-only on so many.
    """
    ours, lessons = _preferred(stage)
    none = as_published(stage.priced(replace(ours, kind="texts", preference=None)))
    contexts = stage.contexts(ours)
    tenth = lessons[: len(lessons) // 10]
    for name, rows in (("all rounds", lessons), ("a tenth of them", tenth)):
        free = stage.lessons(rows, free=True)
        yield stage.learned(f"PILOT, {name}", stage.router(ours, PUBLISHED), contexts, free)
        yield stage.learned(f"LinUCB without prior, {name}", stage.router(none, PUBLISHED), contexts, free)
    yield stage.frozen("PILOT, prior alone", stage.router(ours, PUBLISHED), contexts)
    few = lessons[: round(len(lessons) ** (2 / 3))]
    for name, rows in (("explore-only", lessons), ("epoch-greedy", few)):
        router = stage.router(none, PUBLISHED)
        outcome = _uniform(stage, router, contexts, rows)
        yield stage.frozen(f"{name}, all rounds", router, contexts)._replace(
            learning_task=stage.lessons(rows, free=True), learning=outcome
        )
    arms = stage.generator(6).integers(0, len(stage.table.models), len(stage.split.test))
    task = stage.task()
    yield stage.run("random", task, chosen(task, arms))


def alphas(stage: Stage) -> Iterator[Run]:
    """PILOT as published with other exploration bonuses."""
    ours, lessons = _preferred(stage)
    contexts, free = stage.contexts(ours), stage.lessons(lessons, free=True)
    for alpha in ALPHAS:
        router = stage.router(ours, replace(PUBLISHED, alpha=alpha))
        yield stage.learned(f"α {alpha:g}", router, contexts, free)


def spending(stage: Stage) -> Iterator[Run]:
    """The same frozen scores, all train scores known, and six ways to spend the budget on them."""
    warm = stage.warm()
    contexts, task = stage.contexts(warm), stage.task()
    yield stage.frozen("pacing", stage.router(warm), contexts)
    yield stage.frozen("zcl, excess counted", stage.router(warm, RouterOptions(policy="zcl")), contexts)
    yield stage.frozen("zcl, as published", stage.router(warm, kind=PublishedZcl), contexts)
    for name, kind in (("B/Q per query", Fixed), ("B/Q per query, spill-over", Spilling)):
        router = stage.router(warm, RouterOptions(policy="unlimited", reserve="expected"), kind=kind)
        router.freeze()
        yield stage.run(name, task, stage.replay(router, contexts, task, learn=False))
    yield stage.run("argmax v̂ − λĈ, λ in hindsight", task, _hindsight(stage, warm, contexts))


def _preferred(stage: Stage) -> tuple[Prior, np.ndarray]:
    """The triplet prior from battles on a share of the train rows, and the other rows."""
    rows, others = shared_out(stage)
    key = f"triplet {stage.seed}"
    if key not in stage.fitted:
        battles, embeddings = battles_of(stage, rows)
        stage.fitted[key] = triplet.build(battles, embeddings, encoder_id=stage.material.encoder_id)
    return stage.priced(stage.fitted[key]), others


def _uniform(stage: Stage, router: Router, contexts: FloatArray, rows: np.ndarray) -> Outcome:
    """Rounds in which every model has the same chance; the router learns what it brought."""
    table, task = stage.table, stage.lessons(rows, free=True)
    arms = stage.generator(7).integers(0, len(table.models), len(rows))
    for row, arm in zip(task.traffic.rows.tolist(), arms.tolist(), strict=True):
        router.observe(table.models[arm], contexts[row], float(table.rewards[row, arm]), float(table.costs[row, arm]))
    return chosen(task, arms)


def _hindsight(stage: Stage, prior: Prior, contexts: FloatArray) -> Outcome:
    """The price at which the predicted best of all test rows just costs the budget."""
    task = stage.task()
    router = stage.router(prior)
    rows = task.traffic.rows
    beliefs = router._beliefs  # noqa: SLF001 - predictions are no part of the router's surface
    mean, _ = beliefs.rewards.score_many(contexts[rows])
    costs = beliefs.costs.estimate_many(contexts[rows], np.full(len(rows), 1.0)).expected
    low, high = 0.0, 1e7
    for _ in range(60):
        price = (low + high) / 2
        outcome = chosen(task, (mean - price * costs).argmax(axis=1))
        low, high = (price, high) if outcome.costs.sum() > task.limits.sum() else (low, price)
    return chosen(task, (mean - high * costs).argmax(axis=1))


class PublishedZcl(Router):
    """The published threshold on our own beliefs."""

    def __init__(self, prior: Prior, options: RouterOptions, make_beliefs: MakeBeliefs | None = None) -> None:
        super().__init__(prior, options, make_beliefs)
        self._policy = Zcl(excess=False)


class Fixed(Router):
    """The best score among the arms within the budget of one query."""

    def decide(self, request: Request, account: Account | None, bounds: Nanos | None = None) -> Verdict:
        """One query; nothing that an earlier one saved is used."""
        assert account is not None
        assert account.limit is not None
        assert account.left is not None
        each = account.limit / (account.left + account.queries)
        return super().decide(request._replace(max_cost_nanos=int(self._allowed(each, account))), account, bounds)

    def _allowed(self, each: float, _account: Account) -> float:
        return each


class Spilling(Fixed):
    """The same; what earlier queries saved is added."""

    def _allowed(self, each: float, account: Account) -> float:
        return max(each * (account.queries + 1) - account.settled, 0.0)
