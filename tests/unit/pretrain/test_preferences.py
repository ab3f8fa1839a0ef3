"""`pilot pretrain preferences`: method and kind of votes lead to the right artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.pretrain.voters import drawn
from worker.core.prior import Prior, default_prior
from worker.core.verdict import FloatArray
from worker.errors import UsageError
from worker.pretrain.preferences import Method, run

BATTLES, EMBEDDINGS, _ = drawn(2, 400)
WINNERS = {1.0: "model_a", -1.0: "model_b", 0.0: "tie"}


def encode(texts: Sequence[str]) -> FloatArray:
    index = {text: row for row, text in enumerate(BATTLES.prompts)}
    return EMBEDDINGS[[index[text] for text in texts]]


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    models = np.array(BATTLES.models)
    frame = pd.DataFrame(
        {
            "prompt": [BATTLES.prompts[index] for index in BATTLES.prompt],
            "model_a": models[BATTLES.a],
            "model_b": models[BATTLES.b],
            "winner": [WINNERS[value] for value in BATTLES.outcome],
        }
    )
    path = tmp_path / "votes.parquet"
    frame.to_parquet(path)
    return path


@pytest.mark.parametrize(("method", "kind"), [("observations", "battles"), ("triplet", "triplet")])
def test_method_decides_the_kind_of_prior(votes: Path, tmp_path: Path, method: Method, kind: str) -> None:
    """Each method writes its own kind of artefact and reports votes and ties."""
    report = run(votes, tmp_path / "p.npz", encode=encode, encoder_id="e", method=method)
    found = Prior.load(tmp_path / "p.npz")
    assert (found.kind, found.models, found.fingerprint) == (kind, BATTLES.models, report["fingerprint"])
    assert (found.preference is not None) == (kind == "triplet")
    assert report["battles"] == 400


def test_foreign_votes_need_no_encoder(votes: Path, tmp_path: Path) -> None:
    """Averages of votes from elsewhere are taken over without encoding a prompt."""

    def never(_texts: Sequence[str]) -> FloatArray:
        pytest.fail("encoded")

    encoder = default_prior().encoder
    run(votes, tmp_path / "p.npz", encode=never, encoder_id=encoder, votes="foreign")
    assert Prior.load(tmp_path / "p.npz").fingerprint == default_prior().fingerprint


def test_foreign_votes_say_what_they_cannot(votes: Path, tmp_path: Path) -> None:
    """Triplets and other encoders do not go with votes from elsewhere: a clear line, no file."""
    out = tmp_path / "p.npz"
    with pytest.raises(UsageError, match="needs --method observations"):
        run(votes, out, encode=encode, encoder_id=default_prior().encoder, votes="foreign", method="triplet")
    with pytest.raises(UsageError, match="uses the shipped projection"):
        run(votes, out, encode=encode, encoder_id="e", votes="foreign")
    assert not out.exists()


def test_few_prompts_are_refused(votes: Path, tmp_path: Path) -> None:
    """Own votes on a handful of prompts cannot teach a projection."""
    frame = pd.read_parquet(votes)
    frame["prompt"] = "the same"
    frame.to_parquet(votes)
    with pytest.raises(UsageError, match="1 distinct prompts, needed are 20"):
        run(votes, tmp_path / "p.npz", encode=encode, encoder_id="e")
