"""A text as counts of hashed words and punctuation: templates and formats show here, not in embeddings."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from worker.core.verdict import FloatArray

BUCKETS = 2048
# Template words stand at both ends of a prompt; what lies between is content.
_HEAD = _TAIL = 2000
_TOKEN = re.compile(r"\w+|[^\w\s]")


def word_counts(texts: Sequence[str | None]) -> FloatArray:
    """log(1 + count) by bucket, shape (n, 2048); a row of zeros where there is no text."""
    counts = np.zeros((len(texts), BUCKETS))
    for row, text in zip(counts, texts, strict=True):
        if text is not None:
            for word, count in Counter(_TOKEN.findall(_ends(text).lower())).items():
                # CRC-32 is the same in every process and on every machine, unlike hash().
                row[zlib.crc32(word.encode()) % BUCKETS] += count
    return np.log1p(counts)


def _ends(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} {text[-_TAIL:]}"
