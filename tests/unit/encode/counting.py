"""An encoder that needs no model: an embedding made of the text's hash, and a record of each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


class CountingEncoder:
    """A double of the encoder port; `calls` holds the texts of each call."""

    identity = "counting"
    dimension = 8

    def __init__(self, takes_s: float = 0.0) -> None:
        self.calls: list[list[str]] = []
        self.threads: set[str] = set()
        self.started = threading.Event()
        self.takes_s = takes_s

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the port says."""
        self.calls.append(list(texts))
        self.threads.add(threading.current_thread().name)
        self.started.set()
        time.sleep(self.takes_s)
        if "bad" in texts:
            raise RuntimeError("no embedding for that")
        rows = np.array(
            [list(blake2b(text.encode(), digest_size=self.dimension).digest()) for text in texts], np.float32
        )
        return rows.reshape(len(texts), self.dimension) / np.linalg.norm(rows, axis=-1, keepdims=True)
