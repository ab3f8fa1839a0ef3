"""Which kind of query this is: indicators of the caller's task label and of the nearest cluster.

Knowing the kind is worth more than anything that the embedding says within a kind, on
every table measured. Clusters live in the joint space of embedding and words.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.core.verdict import FloatArray
from worker.core.words import hashed_words

MAX_TASKS = 32
TASK_BUCKETS = 16


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors along the last axis at length 1; a vector of zeros stays as it is."""
    length = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    scaled: FloatArray = vectors / np.where(length > 0, length, 1.0)
    return scaled


@dataclass(frozen=True)
class Tasks:
    """One-hot of the task label: the values that a prior has seen, or 16 hashed buckets if none.

    A query without label, or with one that the prior has not seen, has no indicator.
    """

    seen: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """Number of indicators."""
        return len(self.seen) or TASK_BUCKETS

    def indicators(self, tasks: Sequence[str | None]) -> FloatArray:
        """Shape (n, dimension), at most one 1 a row."""
        found = np.zeros((len(tasks), self.dimension))
        for row, task in zip(found, tasks, strict=True):
            position = None if task is None else self._position(task)
            if position is not None:
                row[position] = 1.0
        return found

    def _position(self, task: str) -> int | None:
        if not self.seen:
            return zlib.crc32(task.encode()) % TASK_BUCKETS
        return self.seen.index(task) if task in self.seen else None


@dataclass(frozen=True)
class Clusters:
    """K-means clusters of (unit embedding, weight × unit word vector).

    `idf` has shape (B,) over word buckets, `directions` (w, B) is the SVD of tf-idf,
    `centres` (k, E + w).
    """

    idf: FloatArray
    directions: FloatArray
    centres: FloatArray
    weight: float

    @property
    def dimension(self) -> int:
        """Number of clusters."""
        return len(self.centres)

    def indicators(self, embeddings: FloatArray, texts: Sequence[str | None]) -> FloatArray:
        """The nearest cluster of each query as a one-hot of shape (n, k); embeddings of unit length.

        A query without text is compared by its embedding alone.
        """
        size = embeddings.shape[1]
        centres, words = self.centres[:, :size], self.centres[:, size:]
        distance = (centres**2).sum(axis=1) - 2 * embeddings @ centres.T
        spoken = np.array([text is not None for text in texts])
        if spoken.any():
            vectors = word_vectors(texts, self.idf, self.directions, self.weight)
            distance += np.where(spoken[:, None], (words**2).sum(axis=1) - 2 * vectors @ words.T, 0.0)
        nearest: FloatArray = np.eye(self.dimension)[distance.argmin(axis=1)]
        return nearest


def word_vectors(texts: Sequence[str | None], idf: FloatArray, directions: FloatArray, weight: float) -> FloatArray:
    """Weighted unit vectors of the texts' words, shape (n, w); zeros where there is no text."""
    vectors = np.zeros((len(texts), len(directions)))
    for row, text in zip(vectors, texts, strict=True):
        if text is not None:
            buckets, logs = hashed_words(text)
            row[:] = directions[:, buckets].dot(logs * idf[buckets])
    weighted: FloatArray = weight * unit(vectors)
    return weighted
