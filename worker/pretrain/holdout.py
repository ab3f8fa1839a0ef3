"""How well votes on prompts that were held back are foretold, beside what needs no prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.core.pairs import gather
from worker.core.verdict import FloatArray
from worker.pretrain.battles import Battles

SHARE = 0.15  # of the prompts


def hold_back(battles: Battles, seed: int) -> tuple[Battles, Battles]:
    """All votes on most prompts, and those on the held-back share; no prompt is on both sides."""
    count = len(battles.prompts)
    chosen = np.random.default_rng(seed).permutation(count)[: max(1, round(SHARE * count))]
    held = np.isin(battles.prompt, chosen)
    return part(battles, ~held), part(battles, held)


def part(battles: Battles, chosen: NDArray[np.bool_]) -> Battles:
    """These votes, n booleans, of the same prompts and models."""
    return replace(
        battles,
        prompt=battles.prompt[chosen],
        a=battles.a[chosen],
        b=battles.b[chosen],
        outcome=battles.outcome[chosen],
    )


def foretold(train: Battles, test: Battles, margin: FloatArray | None = None) -> dict[str, float | None]:
    """Shares of the decided votes of `test` whose winner was named beforehand; none decided: None.

    `accuracy` by the margins of a fitted prior, shape (n,), where there are some; `pair_majority` by who won more
    often of the two in `train`, `strength` by the models' strengths there. Undecided
    predictions count half.
    """
    net = np.zeros((len(train.models), len(train.models)))
    np.add.at(net, (train.a, train.b), train.outcome)
    net -= net.T
    strength = _strengths(train)
    found: dict[str, float | None] = {"votes": int((test.outcome != 0).sum())}
    if margin is not None:
        found["accuracy"] = accuracy(margin, test.outcome)
    found["pair_majority"] = accuracy(net[test.a, test.b], test.outcome)
    found["strength"] = accuracy(strength[test.a] - strength[test.b], test.outcome)
    return found


def accuracy(margin: FloatArray, outcome: FloatArray) -> float | None:
    """Share of decided votes whose margin has the sign of the outcome, a margin of 0 counts half."""
    decided = outcome != 0
    agrees = np.sign(margin[decided]) * outcome[decided]
    return round(float((agrees + 1).mean() / 2), 4) if len(agrees) else None


def _strengths(battles: Battles) -> FloatArray:
    constant = np.ones((len(battles.prompts), 1))
    sums = gather(battles.models, constant, prompt=battles.prompt, a=battles.a, b=battles.b, outcome=battles.outcome)
    return np.array(list(sums.strengths().values()))
