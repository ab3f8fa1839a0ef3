"""The encoder port: what the worker, the evaluation and the pre-training need of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Encoder(Protocol):
    """Turns texts into embeddings. Need not be safe to call from several threads at once."""

    @property
    def identity(self) -> str:
        """Names model and truncation. Artefacts carry it: embeddings of two identities never mix."""

    @property
    def dimension(self) -> int:
        """E, the length of an embedding."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embeddings of shape (n, E), each of unit length, in the order of the texts."""
