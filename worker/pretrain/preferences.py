"""`pilot pretrain preferences`: from a file of votes to an artefact, by the method that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worker.core.prior import default_prior
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain import observations, triplet
from worker.pretrain.battles import Battles, read_battles

Method = Literal["observations", "triplet"]
Votes = Literal["own", "foreign"]
MIN_PROMPTS = 20


def run(
    path: Path,
    out: Path,
    *,
    encode: Callable[[Sequence[str]], FloatArray],
    encoder_id: str,
    method: Method = "observations",
    votes: Votes = "own",
    text_column: str = "prompt",
    task_column: str | None = None,
    strength: float = 1.0,
    progress: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Read votes, fit, write `out`; the report is returned.

    `votes` says whether the prompts are of one's own traffic. `strength` multiplies λ_k of
    method `triplet`.

    Raises:
        UsageError: the file or the combination cannot be used; nothing is written.
    """
    progress(f"reading {path}")
    battles = read_battles(path, text_column=text_column, task_column=task_column)
    if votes == "foreign":
        _check_foreign(method, encoder_id)
        prior = observations.build_foreign(battles)
    else:
        _check_own(battles, path)
        progress(f"encoding {len(battles.prompts)} prompts")
        embeddings = encode(battles.prompts).astype(np.float64)
        progress(f"fitting {len(battles.models)} models on {len(battles)} votes")
        prior = (
            triplet.build(battles, embeddings, encoder_id=encoder_id, strength=strength)
            if method == "triplet"
            else observations.build(battles, embeddings, encoder_id=encoder_id)
        )
    prior.save(out)
    return {
        "kind": prior.kind,
        "out": str(out),
        "fingerprint": prior.fingerprint,
        "prompts": len(battles.prompts),
        "dimension": prior.projection.dimension,
        "models": list(prior.models),
        **prior.report,
    }


def _check_own(battles: Battles, path: Path) -> None:
    count = len(battles.prompts)
    if count < MIN_PROMPTS:
        raise UsageError(f"{path}: {count} distinct prompts, needed are {MIN_PROMPTS}; add some or use --votes foreign")


def _check_foreign(method: Method, encoder_id: str) -> None:
    if method == "triplet":
        raise UsageError("--votes foreign: only the models' averages transfer, which needs --method observations")
    shipped = default_prior().encoder
    if encoder_id != shipped:
        raise UsageError(f"--votes foreign: uses the shipped projection of {shipped}, not of {encoder_id}")
