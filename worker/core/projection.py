"""From a sentence embedding φ to the context ψ: PCA at unit length, the query's kind, a constant 1.

A projection is fitted once and named by its fingerprint; statistics that were
gathered under one fingerprint are never mixed with those of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from worker.core.kinds import Clusters, Tasks, unit
from worker.core.verdict import FloatArray

_VERSION = 1  # of the way a context is computed; part of every fingerprint


@dataclass(frozen=True)
class Projection:
    """A fitted projection.

    `mean` has shape (E,), `components` (p, E), one direction a row. `encoder` names the
    model whose embeddings it was fitted on. ψ = (projected embedding at length 1 | task
    indicators | cluster indicators | 1), each block only where it is given; without
    `constant` there is no intercept, as the paper has it.
    """

    encoder: str
    mean: FloatArray
    components: FloatArray
    constant: bool = True
    tasks: Tasks | None = None
    clusters: Clusters | None = None

    @property
    def embedding_dimension(self) -> int:
        """E, the length of an embedding."""
        return len(self.mean)

    @property
    def dimension(self) -> int:
        """d, the length of a context."""
        kinds = sum(block.dimension for block in (self.tasks, self.clusters) if block is not None)
        return len(self.components) + kinds + self.constant

    @property
    def task_span(self) -> tuple[int, int]:
        """Position of the first task indicator in a context, and their number."""
        return len(self.components), 0 if self.tasks is None else self.tasks.dimension

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that changes a context."""
        digest = hashlib.sha256(f"{_VERSION}:{self.encoder}:{self.constant}:{self.tasks}".encode())
        arrays = [self.mean, self.components]
        if self.clusters is not None:
            digest.update(f"{self.clusters.weight}".encode())
            arrays += [self.clusters.idf, self.clusters.directions, self.clusters.centres]
        for array in arrays:
            digest.update(repr(array.shape).encode() + array.astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    def context(self, embedding: FloatArray, text: str | None = None, task: str | None = None) -> FloatArray:
        """ψ of one query, shape (d,). The arguments are checked by the caller: length E, finite."""
        psi: FloatArray = self.contexts(embedding[None, :], (text,), (task,))[0]
        return psi

    def contexts(
        self,
        embeddings: FloatArray,
        texts: Sequence[str | None],
        tasks: Sequence[str | None],
    ) -> FloatArray:
        """ψ of n queries, shape (n, d), from embeddings of shape (n, E).

        Rounded to float32, in which contexts are stored, so that a context read back from
        state is the one that was used for the decision.
        """
        scaled = unit(embeddings.astype(np.float64))
        parts = [unit((scaled - self.mean) @ self.components.T)]
        if self.tasks is not None:
            parts.append(self.tasks.indicators(tasks))
        if self.clusters is not None:
            parts.append(self.clusters.indicators(scaled, texts))
        if self.constant:
            parts.append(np.ones((len(scaled), 1)))
        return stored(np.hstack(parts))


def fit(
    embeddings: FloatArray,
    encoder: str,
    components: int = 25,
    tasks: Tasks | None = None,
    clusters: Clusters | None = None,
) -> Projection:
    """PCA of embeddings of shape (n, E), scaled to unit length first.

    Fewer directions than `components` where there are fewer distinct texts.
    """
    scaled = unit(embeddings.astype(np.float64))
    mean = scaled.mean(axis=0)
    centred = scaled - mean
    strength, columns = np.linalg.eigh(centred.T @ centred)
    kept = max(1, min(components, int((strength > 1e-9 * max(strength[-1], 1e-9)).sum())))
    directions = columns[:, ::-1][:, :kept].T
    # The sign of an eigenvector is arbitrary; fixing it makes the fingerprint repeatable.
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(kept), largest])[:, None]
    return Projection(encoder, stored(mean), stored(directions), tasks=tasks, clusters=clusters)


def stored(values: FloatArray) -> FloatArray:
    """Values at the float32 precision in which they are stored, as float64."""
    rounded: FloatArray = values.astype(np.float32).astype(np.float64)
    return rounded
