"""Fits the context features on prompts: projection, task indicators, clusters; draws a sample to plan with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from worker.core.kinds import MAX_TASKS, Clusters, Tasks, unit, word_vectors
from worker.core.projection import Projection, fit, stored
from worker.core.verdict import FloatArray
from worker.core.words import word_counts

SAMPLE = 400
CLUSTERS = 32
WORD_DIRECTIONS = 64
WORD_WEIGHT = 0.7
# Below this many prompts a cluster would hold a handful, and its indicator only noise.
_PROMPTS_PER_CLUSTER = 10


def fit_features(
    embeddings: FloatArray, encoder: str, texts: Sequence[str], tasks: Sequence[str | None], *, seed: int = 0
) -> Projection:
    """The projection of these prompts, embeddings of shape (n, E), with indicators of their kind.

    Prompts without any task label leave that block out: it would only slow every decision down.
    """
    labels = Counter(task for task in tasks if task is not None)
    seen = tuple(sorted(task for task, _ in labels.most_common(MAX_TASKS)))
    clusters = fit_clusters(embeddings, texts, seed=seed)
    return fit(embeddings, encoder, tasks=Tasks(seen) if seen else None, clusters=clusters)


def fit_clusters(embeddings: FloatArray, texts: Sequence[str], *, seed: int = 0) -> Clusters | None:
    """K-means in the joint space of embedding and words; None where there are too few prompts."""
    count = min(CLUSTERS, len(texts) // _PROMPTS_PER_CLUSTER)
    if count < 2:
        return None
    from sklearn.cluster import KMeans

    counts = word_counts(texts)
    idf = stored(np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1)
    directions = stored(_word_directions(counts * idf, seed))
    vectors = word_vectors(texts, idf, directions, WORD_WEIGHT)
    joint = np.hstack([unit(embeddings), vectors])
    found = KMeans(count, n_init=4, random_state=seed).fit(joint)
    return Clusters(idf, directions, stored(found.cluster_centers_), WORD_WEIGHT)


def sample(contexts: FloatArray, seed: int = 0) -> FloatArray:
    """At most 400 contexts to plan with, drawn without replacement."""
    if len(contexts) <= SAMPLE:
        return contexts
    chosen: FloatArray = contexts[np.random.default_rng(seed).choice(len(contexts), SAMPLE, replace=False)]
    return chosen


def _word_directions(weighted: FloatArray, seed: int) -> FloatArray:
    from sklearn.decomposition import TruncatedSVD

    rank = max(1, min(WORD_DIRECTIONS, min(weighted.shape) - 1))
    directions: FloatArray = TruncatedSVD(rank, random_state=seed).fit(unit(weighted)).components_
    return directions
