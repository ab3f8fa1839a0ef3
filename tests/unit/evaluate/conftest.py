"""A small table whose best choice depends on the label, with embeddings that show the label."""

import numpy as np
import pytest

from worker.core.verdict import FloatArray
from worker.evaluate.table import Table

MODELS = ("small", "medium", "large")
EMBEDDING = 384  # the shipped default projection's


def make_table(rows: int = 400, *, bounds: bool = False, seed: int = 0) -> Table:
    """Easy prompts are answered by every model, hard ones only by the large; large costs fifty times small."""
    generator = np.random.default_rng(seed)
    hard = generator.random(rows) < 0.4
    chance = np.where(hard[:, None], [0.1, 0.4, 0.9], [0.85, 0.9, 0.9])
    rewards = (generator.random((rows, 3)) < chance).astype(np.float64)
    costs = np.array([0.0001, 0.0008, 0.005]) * np.exp(0.2 * generator.standard_normal((rows, 3)))
    most = np.ceil(costs * 1e9 * 1.5).astype(np.int64) if bounds else None
    labels = ["hard" if value else "easy" for value in hard]
    prompts = [f"{label} question number {index}" for index, label in enumerate(labels)]
    return Table("small.parquet", prompts, [None] * rows, labels, MODELS, rewards, costs, most)


def make_embeddings(table: Table, seed: int = 1) -> FloatArray:
    """Two directions, one a label, with noise."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((2, EMBEDDING))
    vectors = centres[table.strata] + 0.5 * generator.standard_normal((len(table.prompts), EMBEDDING))
    return vectors / np.linalg.norm(vectors, axis=1)[:, None]


@pytest.fixture(scope="session")
def table() -> Table:
    return make_table()


@pytest.fixture(scope="session")
def embeddings(table: Table) -> FloatArray:
    return make_embeddings(table)
