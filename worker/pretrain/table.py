"""A prior from a table of prompts × models: the sums of all its scores and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.core.costs import LogRidge, log_costs
from worker.core.coupled import Hyper
from worker.core.evidence import choose
from worker.core.prior import Prior
from worker.core.projection import Projection
from worker.core.statistics import ArmStatistics, Moments
from worker.core.verdict import FloatArray
from worker.pretrain.features import fit_features, sample
from worker.pretrain.scores import read_scores

BYTES_PER_TOKEN = 4

Progress = Callable[[str], None]
Encode = Callable[[Sequence[str]], FloatArray]


def build(
    prompts: Sequence[str],
    rewards: FloatArray,
    costs: FloatArray,
    models: Sequence[str],
    embeddings: FloatArray,
    *,
    encoder_id: str,
    tasks: Sequence[str | None] | None = None,
    projection: Projection | None = None,
    seed: int = 0,
) -> Prior:
    """Rewards 0..1 and costs in USD of shape (n, K), embeddings (n, E) → a prior of kind `table`.

    Projection and features are fitted on these prompts unless given, the hyper-parameters
    are chosen by evidence.
    """
    kinds = list(tasks) if tasks is not None else [None] * len(prompts)
    fitted = projection or fit_features(embeddings, encoder_id, prompts, kinds, seed=seed)
    contexts = fitted.contexts(embeddings, prompts, kinds)
    dimension = fitted.dimension
    learned = [ArmStatistics(Moments.of(contexts, r), Moments.zeros(dimension)) for r in rewards.T]
    first, count = fitted.task_span
    mean_costs = costs.mean(axis=0)
    priced = [Moments.of(contexts, log_costs(c, mean)) for c, mean in zip(costs.T, mean_costs, strict=True)]
    return Prior(
        kind="table",
        projection=fitted,
        contexts=sample(contexts, seed),
        models=tuple(models),
        statistics=dict(zip(models, learned, strict=True)),
        hyper=choose([arm.reward for arm in learned], Hyper(task_first=first, tasks=count)),
        log_costs=dict(zip(models, priced, strict=True)),
        mean_costs=dict(zip(models, mean_costs.tolist(), strict=True)),
        calibration=dict(zip(models, _calibration(contexts, costs, priced), strict=True)),
        input_tokens=float(np.mean([math.ceil(len(text.encode()) / BYTES_PER_TOKEN) for text in prompts])),
        report={"prompts": len(prompts), "mean_rewards": rewards.mean(axis=0).tolist(), "dimension": dimension},
    )


def _calibration(contexts: FloatArray, costs: FloatArray, priced: Sequence[Moments]) -> list[float]:
    """s_k: what the mean of exponentiated logs falls short of the true mean."""
    means = np.maximum(costs.mean(axis=0), 1e-12)
    ridge = LogRidge(means, contexts.shape[1])
    ridge.refresh(priced)
    predicted = np.exp(contexts @ ridge.theta.T)
    factors: list[float] = (np.maximum(costs.sum(axis=0), 1e-12) / predicted.sum(axis=0)).tolist()
    return factors


def run(
    path: Path,
    out: Path,
    *,
    encode: Encode,
    encoder_id: str,
    text_column: str = "prompt",
    reward_prefix: str = "reward:",
    cost_prefix: str = "cost:",
    task_column: str | None = None,
    models: Sequence[str] = (),
    progress: Progress = lambda _line: None,
) -> dict[str, Any]:
    """`pilot pretrain table`: read the file, encode, build, write `out`; the report is returned.

    Raises:
        UsageError: the table cannot be used; nothing is written.
    """
    progress(f"reading {path}")
    scores = read_scores(
        path,
        text_column=text_column,
        reward_prefix=reward_prefix,
        cost_prefix=cost_prefix,
        task_column=task_column,
        models=models,
    )
    progress(f"encoding {len(scores.prompts)} prompts")
    embeddings = encode(scores.prompts).astype(np.float64)
    progress(f"fitting {len(scores.models)} models")
    prior = build(
        scores.prompts,
        scores.rewards,
        scores.costs,
        scores.models,
        embeddings,
        encoder_id=encoder_id,
        tasks=scores.tasks,
    )
    prior.save(out)
    return {
        "kind": prior.kind,
        "out": str(out),
        "fingerprint": prior.fingerprint,
        "prompts": len(scores.prompts),
        "dimension": prior.projection.dimension,
        "models": [
            {"model": model, "mean_reward": reward, "mean_cost_usd": prior.mean_costs[model]}
            for model, reward in zip(scores.models, scores.rewards.mean(axis=0).tolist(), strict=True)
        ],
    }
