"""From embedding to context."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worker.core.kinds import unit
from worker.core.projection import Projection, fit

RNG = np.random.default_rng(5)
EMBEDDINGS = unit(RNG.normal(size=(200, 40)) * np.geomspace(4, 0.1, 40) + 0.3)


def blank(n: int) -> list[None]:
    return [None] * n


def test_context_is_a_unit_vector_and_a_constant() -> None:
    """ψ is the projection at length 1, followed by the intercept's 1."""
    contexts = fit(EMBEDDINGS, "some-encoder").contexts(EMBEDDINGS, blank(200), blank(200))
    assert contexts.shape == (200, 26)
    np.testing.assert_allclose(np.linalg.norm(contexts[:, :-1], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(contexts[:, -1], 1)


def test_projection_keeps_what_varies_most() -> None:
    """The directions are orthonormal and catch the variance that the SVD says."""
    projection = fit(EMBEDDINGS, "some-encoder", 10)
    np.testing.assert_allclose(projection.components @ projection.components.T, np.eye(10), atol=1e-6)
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    caught = ((centred @ projection.components.T) ** 2).sum()
    np.testing.assert_allclose(caught, (np.linalg.svd(centred)[1][:10] ** 2).sum(), rtol=1e-6)


def test_contexts_survive_storage_as_float32() -> None:
    """What state stores in float32 is read back as the very context that was scored."""
    contexts = fit(EMBEDDINGS, "some-encoder").contexts(EMBEDDINGS, blank(200), blank(200))
    np.testing.assert_array_equal(contexts.astype(np.float32).astype(np.float64), contexts)


def test_length_of_an_embedding_does_not_matter() -> None:
    """A client that does not normalise gets the same context."""
    projection = fit(EMBEDDINGS, "some-encoder")
    np.testing.assert_allclose(projection.context(EMBEDDINGS[0] * 7), projection.context(EMBEDDINGS[0]), atol=1e-6)


def test_one_context_is_a_row_of_many() -> None:
    """The single form and the batch agree to storage precision."""
    projection = fit(EMBEDDINGS, "some-encoder")
    batch = projection.contexts(EMBEDDINGS[:5], blank(5), blank(5))
    for index in range(5):
        np.testing.assert_allclose(projection.context(EMBEDDINGS[index]), batch[index], atol=1e-6)


def test_embedding_at_the_mean_has_only_the_constant() -> None:
    """A vector without direction after centring becomes zeros, not NaN."""
    projection = Projection("e", np.array([1.0, 0.0]), np.eye(2))
    np.testing.assert_array_equal(projection.context(np.array([1.0, 0.0])), [0, 0, 1])


def test_few_texts_give_few_directions() -> None:
    """Three distinct texts have at most two directions of variance."""
    assert fit(EMBEDDINGS[:3], "some-encoder").dimension == 3


def test_fitting_twice_gives_the_same_fingerprint() -> None:
    """Signs of directions are fixed, so a repeated pre-training keeps what was learned."""
    assert fit(EMBEDDINGS, "some-encoder").fingerprint == fit(EMBEDDINGS[::-1].copy()[::-1], "some-encoder").fingerprint


def test_fingerprint_names_everything_that_changes_a_context() -> None:
    """Another encoder, mean, direction or intercept is another fingerprint."""
    projection = fit(EMBEDDINGS, "some-encoder")
    others = [
        replace(projection, encoder="another"),
        replace(projection, mean=projection.mean + 1e-6),
        replace(projection, components=projection.components[::-1]),
        replace(projection, constant=False),
    ]
    assert len({projection.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_without_constant_there_is_no_intercept() -> None:
    """The paper's context is the unit vector alone."""
    projection = replace(fit(EMBEDDINGS, "some-encoder"), constant=False)
    assert projection.dimension == 25
    np.testing.assert_allclose(np.linalg.norm(projection.context(EMBEDDINGS[0])), 1, rtol=1e-6)
