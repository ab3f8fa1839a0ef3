"""The YAML file of `pilot models apply`."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.cli.model_file import read_models
from worker.errors import UsageError

PRICES = "input_usd_per_mtok: 1, output_usd_per_mtok: 2"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return path


def test_records_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Every model of the file becomes a record with its fields, whole numbers count as prices, null means absent."""
    path = write(
        tmp_path, f"models: [{{model: b, {PRICES}, tags: [x]}}, {{model: a, {PRICES}, max_output_tokens: null}}]"
    )
    records = read_models(path)
    assert list(records) == ["b", "a"]
    assert (records["b"].input_usd_per_mtok, records["b"].tags) == (1.0, ["x"])
    assert records["a"].max_output_tokens is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs `models:` with a list of at least one model"),
        ("models: []", "needs `models:` with a list of at least one model"),
        ("- a", "needs `models:` with a list of at least one model"),
        ("models: [", "not YAML"),
        ("models: [{model: 2024-13-45}]", "not YAML: month must be in 1..12"),
        (f"models: {'[' * 3000}", "nested too deeply"),
        ("models: [a]", "models[1]: not a mapping of fields"),
        (f"models: [{{{PRICES}}}]", "models[1].model: Field required"),
        (f"models: [{{model: a, {PRICES}}}, {{model: a, {PRICES}}}]", "models[2]: 'a' is there twice"),
        (f"models: [{{model: a, {PRICES}, tag: x}}]", "models[1]: unknown field 'tag'"),
        (f"models: [{{model: a, {PRICES}, enabled: 1}}]", "models[1].enabled: Input should be a valid boolean"),
        ("models: [{model: a, input_usd_per_mtok: -1, output_usd_per_mtok: 2}]", "models[1].input_usd_per_mtok"),
        ("models: [{model: a, input_usd_per_mtok: .nan, output_usd_per_mtok: 2}]", "models[1].input_usd_per_mtok"),
    ],
)
def test_errors_name_file_place_and_reason(tmp_path: Path, text: str, says: str) -> None:
    """What cannot be used is said with the file, the entry and the field, and nothing is returned."""
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_models(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A missing file and one that is no text are named."""
    with pytest.raises(UsageError, match=r"none\.yaml: No such file or directory"):
        read_models(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_models(binary)
