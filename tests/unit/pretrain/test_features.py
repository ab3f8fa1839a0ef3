"""Context features fitted on prompts."""

from __future__ import annotations

import numpy as np

from worker.pretrain.features import CLUSTERS, fit_clusters, fit_features, sample

RNG = np.random.default_rng(3)
N = 400
TEMPLATE = RNG.integers(0, 2, N)
PROMPTS = [
    f"Write a function that returns item {i}:\n```python" if kind else f"Q: who was number {i}?\nA) x B) y\nAnswer:"
    for i, kind in enumerate(TEMPLATE)
]
EMBEDDINGS = RNG.normal(size=(N, 20))  # says nothing about the template


def test_templates_fall_into_different_clusters() -> None:
    """What only the words show is in the context: no cluster mixes two templates."""
    clusters = fit_clusters(EMBEDDINGS, PROMPTS)
    assert clusters is not None
    assert clusters.dimension == CLUSTERS
    found = fit_features(EMBEDDINGS, "e", PROMPTS, [None] * N).contexts(EMBEDDINGS, PROMPTS, [None] * N)
    chosen = found[:, -CLUSTERS - 1 : -1].argmax(axis=1)
    mixed = [len(set(TEMPLATE[chosen == cluster])) > 1 for cluster in set(chosen)]
    assert not any(mixed)


def test_fitting_is_repeatable() -> None:
    """The same prompts and seed give the same fingerprint, so learned sums stay valid."""
    first = fit_features(EMBEDDINGS, "e", PROMPTS, [None] * N)
    assert first.fingerprint == fit_features(EMBEDDINGS, "e", PROMPTS, [None] * N).fingerprint
    assert first.fingerprint != fit_features(EMBEDDINGS, "e", PROMPTS, [None] * N, seed=1).fingerprint


def test_tasks_are_the_commonest_labels() -> None:
    """At most 32 labels have an indicator, those that occur most; without any there is no block."""
    labels = [f"rare{i}" for i in range(60)] + ["often"] * 200 + ["also"] * 140
    seen = fit_features(EMBEDDINGS, "e", PROMPTS, labels).tasks
    assert seen is not None
    assert len(seen.seen) == 32
    assert {"often", "also"} <= set(seen.seen)
    assert fit_features(EMBEDDINGS, "e", PROMPTS, [None] * N).tasks is None


def test_dimension_counts_every_block() -> None:
    """d is what the contexts have: directions, tasks, clusters, constant."""
    labels = ["a", "b"] * (N // 2)
    projection = fit_features(EMBEDDINGS, "e", PROMPTS, labels)
    contexts = projection.contexts(EMBEDDINGS, PROMPTS, labels)
    assert contexts.shape == (N, projection.dimension) == (N, 20 + 2 + CLUSTERS + 1)


def test_few_prompts_have_no_clusters() -> None:
    """Where a cluster would hold single prompts there are fewer, or none."""
    assert fit_clusters(EMBEDDINGS[:19], PROMPTS[:19]) is None
    some = fit_clusters(EMBEDDINGS[:55], PROMPTS[:55])
    assert some is not None
    assert some.dimension == 5


def test_sample_draws_distinct_contexts() -> None:
    """At most 400, none twice, the same for the same seed."""
    contexts = np.arange(2000.0)[:, None]
    found = sample(contexts)
    assert len(np.unique(found)) == len(found) == 400
    np.testing.assert_array_equal(found, sample(contexts))
    assert sample(contexts[:7]) is not None
    assert len(sample(contexts[:7])) == 7
