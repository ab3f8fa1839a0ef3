"""A tiny data set whose numbers can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from worker.demo.data import Dataset, ListedModel, Scores

PROMPTS = ("one", "two", "three", "four")
REWARDS = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.5], [0.5, 1.0]])
COSTS = np.array([[1.0, 4.0], [1.0, 6.0], [1.0, 4.0], [1.0, 6.0]])


@pytest.fixture
def tiny() -> Dataset:
    """Two models; on average the small one earns .375 for 1 USD, the large one .875 for 5 USD."""
    scores = Scores(PROMPTS, REWARDS, COSTS)
    models = (ListedModel("small", 1.0, 1.0, 10, 1000), ListedModel("large", 5.0, 5.0, 10, 1000))
    return Dataset(models, scores, scores)
