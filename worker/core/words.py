"""A text as counts of hashed words and punctuation: templates and formats show here, not in embeddings."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.core.verdict import FloatArray

IntArray = NDArray[np.int64]

BUCKETS = 2048
# Template words stand at both ends of a prompt; what lies between is content.
_HEAD = _TAIL = 2000
_TOKEN = re.compile(r"\w+|[^\w\s]")


def hashed_words(text: str) -> tuple[IntArray, FloatArray]:
    """The distinct buckets of a text's words and log(1 + count) of each."""
    counts: Counter[int] = Counter()
    for word, count in Counter(_TOKEN.findall(_ends(text).lower())).items():
        # CRC-32 is the same in every process and on every machine, unlike hash().
        counts[zlib.crc32(word.encode()) % BUCKETS] += count
    return np.array(list(counts), dtype=np.int64), np.log1p(np.array(list(counts.values()), dtype=np.float64))


def word_counts(texts: Sequence[str]) -> FloatArray:
    """log(1 + count) by bucket, shape (n, 2048)."""
    table = np.zeros((len(texts), BUCKETS))
    for row, text in zip(table, texts, strict=True):
        buckets, logs = hashed_words(text)
        row[buckets] = logs
    return table


def _ends(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} {text[-_TAIL:]}"
