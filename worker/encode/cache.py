"""A bounded memory of embeddings: repeated prompts and replays are not encoded twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from worker.encode.base import Encoder, Floats
from worker.observe.records import Observer, Observers, TextsEncoded

CAPACITY = 10_000  # 15 MB at 384 float32
_NOBODY = Observers()


class CachedEncoder:
    """Keeps the embeddings of the most recently used texts, by a 128-bit hash of the text.

    `hits` and `misses` count texts; of equal texts in one call the first is a miss, the others are hits.
    """

    def __init__(self, encoder: Encoder, capacity: int = CAPACITY, observer: Observer = _NOBODY) -> None:
        self._encoder = encoder
        self._observer = observer
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, Floats] = OrderedDict()
        self.identity = encoder.identity
        self.dimension = encoder.dimension
        self.hits = 0
        self.misses = 0

    def encode(self, texts: Sequence[str]) -> Floats:
        """As the encoder behind it: shape (n, E), in the order of the texts."""
        keys = [_key(text) for text in texts]
        found = self._look_up(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found.update(zip(missing, self._encoder.encode(list(missing.values())), strict=True))
        self._count(len(keys) - len(missing), len(missing))
        self._remember({key: found[key] for key in missing})
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dimension), np.float32)

    def _count(self, hits: int, misses: int) -> None:
        self.hits += hits
        self.misses += misses
        self._observer.observe(TextsEncoded(hits, misses))

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, Floats]:
        found = {key: self._vectors[key] for key in keys if key in self._vectors}
        for key in found:
            self._vectors.move_to_end(key)
        return found

    def _remember(self, vectors: dict[bytes, Floats]) -> None:
        for key, vector in vectors.items():
            self._vectors[key] = vector.copy()  # a row would keep its whole batch alive
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)


def _key(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
