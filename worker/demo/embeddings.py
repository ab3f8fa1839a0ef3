"""Embeddings of the demo's prompts, kept in the platform's cache: encoding takes a minute, a second run none.

A file is named after encoder and texts, so another encoder or other texts never meet old vectors.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from worker.core.verdict import FloatArray
from worker.encode.base import Encoder

CHUNK = 64


def embed(encoder: Encoder, texts: Sequence[str], say: Callable[[str], None], folder: Path | None = None) -> FloatArray:
    """Embeddings (n, E) of the texts, from the cache where they are known; `say` hears of the progress."""
    path = (folder or user_cache_path("pilot-router") / "demo") / f"{_name(encoder, texts)}.npy"
    vectors = _cached(path, (len(texts), encoder.dimension))
    if vectors is None:
        vectors = _encode(encoder, texts, say)
        _keep(path, vectors)
    return vectors.astype(np.float64)


def _name(encoder: Encoder, texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(encoder.identity.encode(), digest_size=16)
    for text in texts:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def _cached(path: Path, shape: tuple[int, int]) -> FloatArray | None:
    try:
        vectors: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape else None


def _encode(encoder: Encoder, texts: Sequence[str], say: Callable[[str], None]) -> FloatArray:
    chunks = []
    for begin in range(0, len(texts), CHUNK):
        say(f"encoding prompts: {begin:,} of {len(texts):,}")
        chunks.append(encoder.encode(texts[begin : begin + CHUNK]))
    return np.concatenate(chunks).astype(np.float64)


def _keep(path: Path, vectors: FloatArray) -> None:
    # A full or read-only disk costs a minute on the next run, nothing else.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.npy")
        np.save(unfinished, vectors.astype(np.float32))
        unfinished.replace(path)
    except OSError:
        return
