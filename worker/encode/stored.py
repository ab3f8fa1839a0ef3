"""Embeddings of a set of texts, kept on disk under a hash of their content: a second run encodes nothing.

A file is named after encoder and texts, so another encoder or other texts never meet old vectors.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from worker.core.verdict import FloatArray
from worker.encode.base import Encoder

CHUNK = 64  # texts between two signs of progress

Advance = Callable[[int], None]


def embed(encoder: Encoder, texts: Sequence[str], folder: Path, advance: Advance = lambda _count: None) -> FloatArray:
    """Embeddings of shape (n, E), from disk where these texts were encoded before.

    `advance` gets the number of texts done since it was last called.
    """
    file = folder / f"{_digest(encoder, texts)}.npy"
    vectors = _read(file, (len(texts), encoder.dimension))
    if vectors is None:
        vectors = _encode(encoder, texts, advance)
        _keep(file, vectors)
    else:
        advance(len(texts))
    return vectors.astype(np.float64)


def _digest(encoder: Encoder, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{encoder.identity}:{encoder.dimension}:".encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _read(file: Path, shape: tuple[int, int]) -> FloatArray | None:
    try:
        vectors: FloatArray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape else None


def _encode(encoder: Encoder, texts: Sequence[str], advance: Advance) -> FloatArray:
    parts = []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        parts.append(encoder.encode(chunk))
        advance(len(chunk))
    return np.concatenate(parts)


def _keep(file: Path, vectors: FloatArray) -> None:
    # A full or read-only disk costs a minute on the next run, nothing else.
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, vectors, allow_pickle=False)
        unfinished.replace(file)
    except OSError:
        return
