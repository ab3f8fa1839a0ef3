"""A prior from unlabelled prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from worker.core.prior import Prior
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.texts import run


def encode(texts: Sequence[str]) -> FloatArray:
    return np.random.default_rng(len(texts)).normal(size=(len(texts), 30))


def test_writes_features_and_no_opinion(tmp_path: Path) -> None:
    """The artefact has projection, clusters and a sample, and knows no model."""
    frame = pd.DataFrame({"text": [f"prompt {i}" for i in range(120)], "endpoint": ["chat", None] * 60})
    frame.to_json(tmp_path / "day.jsonl", orient="records", lines=True)
    report = run(
        tmp_path / "day.jsonl",
        tmp_path / "p.npz",
        encode=encode,
        encoder_id="e",
        text_column="text",
        task_column="endpoint",
    )
    found = Prior.load(tmp_path / "p.npz")
    assert (found.kind, found.models, found.observations) == ("texts", (), 0)
    assert found.projection.tasks is not None
    assert found.projection.tasks.seen == ("chat",)
    assert found.projection.clusters is not None
    assert found.contexts.shape == (120, report["dimension"])
    assert report["fingerprint"] == found.fingerprint


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    """A handful of prompts is no traffic: a clear line and no file."""
    pd.DataFrame({"prompt": ["a", "b"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UsageError, match="2 prompts; at least 50"):
        run(tmp_path / "t.csv", tmp_path / "p.npz", encode=encode, encoder_id="e")
    assert not (tmp_path / "p.npz").exists()
