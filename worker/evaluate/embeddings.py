"""Embeddings of a table's prompts, kept on disk under a hash of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from worker.core.verdict import FloatArray
from worker.encode import Encoder

CHUNK = 64  # texts between two signs of progress

Advance = Callable[[int], None]


def embed(encoder: Encoder, texts: Sequence[str], folder: Path, advance: Advance = lambda _count: None) -> FloatArray:
    """Embeddings of shape (n, E), from disk where these texts were encoded before.

    `advance` gets the number of texts done since it was last called.
    """
    file = folder / f"{_digest(encoder, texts)}.npy"
    if file.exists():
        advance(len(texts))
        stored: FloatArray = np.load(file, allow_pickle=False).astype(np.float64)
        return stored
    parts = []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        parts.append(encoder.encode(chunk))
        advance(len(chunk))
    embeddings = np.concatenate(parts)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    with temporary.open("wb") as output:
        np.save(output, embeddings, allow_pickle=False)
    temporary.replace(file)
    return embeddings.astype(np.float64)


def _digest(encoder: Encoder, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{encoder.identity}:{encoder.dimension}:".encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
