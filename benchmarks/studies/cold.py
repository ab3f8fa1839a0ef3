"""What the first rounds of a router without a prior lose: to exploring, to the budget, to what contexts say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from studies.stage import Stage
from worker.core.arms import Arm
from worker.core.beliefs import Beliefs, LearnedBeliefs
from worker.core.prior import Prior
from worker.core.router import RouterOptions
from worker.evaluate.experiment import Run
from worker.evaluate.table import Split


def cold(stage: Stage) -> Iterator[Run]:
    """The train rows as rounds, learning; beside them priors that know the scores of the test rows.

    Quality is that of the learning rounds. The budget is the same share in every line but those without.
    """
    none, known = stage.priced(), _turned(stage)
    lessons, free = stage.lessons(), stage.lessons(free=True)
    calm = RouterOptions(alpha=0.0)
    for name, prior, options, pulls, task, learn in (
        ("no prior", none, None, True, lessons, True),
        ("no forced pulls", none, None, False, lessons, True),
        ("no bonus", none, calm, True, lessons, True),
        ("neither", none, calm, False, lessons, True),
        ("no prior, no budget", none, None, True, free, True),
        ("other rows known, learning on", known, None, True, lessons, True),
        ("other rows known, frozen", known, None, True, lessons, False),
        ("other rows known, frozen, no budget", known, None, True, free, False),
    ):
        router = stage.router(prior, options, None if pulls else lambda arms, prior=prior: _pulled(prior, arms))
        if not learn:
            router.freeze()
        yield stage.run(name, task, stage.replay(router, stage.contexts(prior), task, learn=learn))


def _turned(stage: Stage) -> Prior:
    """A prior that knows all scores of the test rows, which the learning rounds do not contain."""
    if "turned" not in stage.fitted:
        split = Split(stage.split.test, stage.split.train)
        turned = Stage(replace(stage.material, splits=[split]), 0, stage.seed, stage.budget)
        stage.fitted["turned"] = turned.warm()
    return stage.fitted["turned"]


def _pulled(prior: Prior, arms: Sequence[Arm]) -> Beliefs:
    """Beliefs that count as tried, so that no pull is forced."""
    beliefs = LearnedBeliefs(prior, arms, 0.95, "coupled", "table")
    beliefs.known = [True] * len(arms)
    return beliefs
