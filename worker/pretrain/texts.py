"""A prior from unlabelled prompts: context features of one's own traffic, and no opinion about models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.core.prior import Prior
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.features import fit_features, sample
from worker.pretrain.frame import read_frame, read_labels, read_texts

# Fewer prompts than directions give a projection that only repeats them.
MIN_TEXTS = 50


def build(
    prompts: Sequence[str],
    embeddings: FloatArray,
    *,
    encoder_id: str,
    tasks: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Prior:
    """Embeddings of shape (n, E) → a prior of kind `texts`."""
    kinds = list(tasks) if tasks is not None else [None] * len(prompts)
    projection = fit_features(embeddings, encoder_id, prompts, kinds, seed=seed)
    contexts = projection.contexts(embeddings, prompts, kinds)
    return Prior("texts", projection, sample(contexts, seed), report={"prompts": len(prompts)})


def run(
    path: Path,
    out: Path,
    *,
    encode: Callable[[Sequence[str]], FloatArray],
    encoder_id: str,
    text_column: str = "prompt",
    task_column: str | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """`pilot pretrain texts`: read the file, encode, fit, write `out`; the report is returned.

    Raises:
        UsageError: the file cannot be used; nothing is written.
    """
    progress(f"reading {path}")
    frame = read_frame(path)
    prompts = read_texts(frame, path, text_column)
    if len(prompts) < MIN_TEXTS:
        raise UsageError(f"{path}: {len(prompts)} prompts; at least {MIN_TEXTS} are needed to fit features")
    tasks = read_labels(frame, path, task_column)
    progress(f"encoding {len(prompts)} prompts")
    prior = build(prompts, encode(prompts).astype(np.float64), encoder_id=encoder_id, tasks=tasks)
    prior.save(out)
    return {
        "kind": prior.kind,
        "out": str(out),
        "fingerprint": prior.fingerprint,
        "prompts": len(prompts),
        "dimension": prior.projection.dimension,
    }
