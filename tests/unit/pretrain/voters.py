"""Votes drawn from models of known skill, for the tests of both methods."""

from __future__ import annotations

import numpy as np

from worker.core.verdict import FloatArray
from worker.pretrain.battles import Battles

MODELS = ("coder", "poet", "weak")
PROMPTS = 240


def drawn(seed: int, votes: int = 1500) -> tuple[Battles, FloatArray, FloatArray]:
    """Votes, embeddings (m, E) and true expected rewards (m, K): the coder codes, the poet rhymes."""
    rng = np.random.default_rng(seed)
    code = rng.random(PROMPTS) < 0.5
    embeddings = rng.normal(size=(PROMPTS, 12)) * 0.2
    embeddings[:, 0] += np.where(code, 1.0, -1.0)
    quality = np.column_stack([np.where(code, 0.9, 0.4), np.where(code, 0.4, 0.9), np.full(PROMPTS, 0.2)])
    prompt = rng.integers(0, PROMPTS, votes)
    a = rng.integers(0, 3, votes)
    b = (a + rng.integers(1, 3, votes)) % 3
    wins_a = rng.random(votes) < quality[prompt, a]
    wins_b = rng.random(votes) < quality[prompt, b]
    outcome = wins_a.astype(np.float64) - wins_b
    texts = [f"{'code' if is_code else 'rhyme'} {index}" for index, is_code in enumerate(code)]
    return Battles(texts, [None] * PROMPTS, MODELS, prompt, a, b, outcome), embeddings, quality
