from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.encode.base import Floats
from worker.encode.stored import embed


class Lengths:
    """An encoder of one number a text, its length, that counts what it was asked."""

    identity = "lengths/1"
    dimension = 1

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, texts: Sequence[str]) -> Floats:
        self.asked += len(texts)
        return np.array([[len(text)] for text in texts], np.float32)


def test_known_texts_are_not_encoded_again(tmp_path: Path) -> None:
    """A second run reads the very same vectors without asking the encoder."""
    encoder, texts = Lengths(), ["a" * n for n in range(1, 151)]
    first = embed(encoder, texts, tmp_path)
    again = embed(encoder, texts, tmp_path)
    assert encoder.asked == 150
    assert first[:, 0].tolist() == again[:, 0].tolist() == list(range(1, 151))


def test_other_texts_are_encoded(tmp_path: Path) -> None:
    """One changed text makes it another set."""
    encoder = Lengths()
    embed(encoder, ["one", "two"], tmp_path)
    assert embed(encoder, ["one", "three"], tmp_path)[:, 0].tolist() == [3, 5]


def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    """A file that was cut off is encoded anew, not used and not an error."""
    encoder = Lengths()
    embed(encoder, ["one"], tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert embed(encoder, ["one"], tmp_path).tolist() == [[3.0]]
    assert encoder.asked == 2


def test_cache_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    """Where no folder can be made the vectors come all the same."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert embed(Lengths(), ["one"], blocked).tolist() == [[3.0]]
