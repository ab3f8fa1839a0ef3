"""Build the prior that ships with the package: a projection and contexts of public prompts.

The prompts are public under Apache-2.0; only numbers derived from them are written.

    python scripts/make_default_prior.py --pandalm pandalm.parquet --mtbench mtbench.parquet \
        --out worker/core/assets/default_prior.npz

The examples of the package `paretobandit` are found where it is installed.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from worker.core.kinds import Tasks
from worker.core.prior import Prior
from worker.core.projection import fit
from worker.encode import load
from worker.settings import DEFAULT_ENCODER

SAMPLE = 400
SEED = 20250828
EMBEDDING_DIMENSION = 384


def read_prompts(pandalm: Path, mtbench: Path) -> list[str]:
    """Distinct prompts of the three sources, in a stable order."""
    texts: list[str] = []
    examples = resources.files("pareto_bandit").joinpath("data/examples")
    for name in ("val.jsonl", "test_holdout.jsonl"):
        texts += [json.loads(line)["prompt"] for line in examples.joinpath(name).read_text().split("\n") if line]
    texts += pd.read_parquet(pandalm)["prompt"].tolist()
    votes = pd.read_parquet(mtbench)
    texts += votes["prompt"].tolist() + votes["prompt_turn2"].dropna().tolist()
    return list(dict.fromkeys(text for text in texts if text.strip()))


def main() -> None:
    """Read, embed, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pandalm", type=Path, required=True, help="Parquet with a column prompt")
    parser.add_argument("--mtbench", type=Path, required=True, help="Parquet with prompt and prompt_turn2")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    texts = read_prompts(arguments.pandalm, arguments.mtbench)
    encoder = load(DEFAULT_ENCODER, EMBEDDING_DIMENSION)
    embeddings = encoder.encode(texts).astype(np.float64)
    projection = fit(embeddings, encoder.identity, tasks=Tasks())
    chosen = np.random.default_rng(SEED).choice(len(texts), SAMPLE, replace=False)
    contexts = projection.contexts(embeddings[chosen], [None] * SAMPLE, [None] * SAMPLE)
    report = {"prompts": len(texts), "sources": ["paretobandit 0.1.1 examples", "PandaLM", "MT-Bench questions"]}
    Prior("none", projection, contexts, report=report).save(arguments.out)
    print(f"{arguments.out}: {len(texts)} prompts, {arguments.out.stat().st_size} bytes, {projection.fingerprint}")


if __name__ == "__main__":
    main()
