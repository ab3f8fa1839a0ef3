"""The prior artefact: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import contextlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worker.core import prior as artefact
from worker.core.coupled import Hyper
from worker.core.kinds import Clusters, Tasks
from worker.core.pairs import gather
from worker.core.prior import PreferencePrior, Prior, PriorError, default_prior
from worker.core.projection import fit, stored
from worker.core.statistics import ArmStatistics, Moments
from worker.core.words import BUCKETS

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(60, 12))
CLUSTERS = Clusters(
    stored(RNG.random(BUCKETS)), stored(RNG.random((3, BUCKETS))), stored(RNG.normal(size=(4, 15))), 0.7
)
PROJECTION = fit(EMBEDDINGS, "encoder-x", 5, Tasks(("code", "chat")), CLUSTERS)
TEXTS = [None if i % 7 == 0 else f"words {i}" for i in range(60)]
TASKS = ["code" if i % 3 == 0 else None for i in range(60)]
CONTEXTS = PROJECTION.contexts(EMBEDDINGS, TEXTS, TASKS)
D = PROJECTION.dimension


def moments() -> Moments:
    return Moments.of(CONTEXTS, RNG.random(60))


FULL = Prior(
    kind="table",
    projection=PROJECTION,
    contexts=CONTEXTS[:20],
    models=("a/b", "ü", "c"),
    statistics={"a/b": ArmStatistics(moments(), moments(), 5, 6, 7, 8, 9), "c": ArmStatistics.zeros(D)},
    hyper=Hyper(tau_d2=0.004, tau_s2=0.5, sigma2=0.07),
    log_costs={"ü": moments()},
    mean_costs={"a/b": 0.1 + 0.2, "ü": 1e-9},
    calibration={"a/b": 1.25},
    input_tokens=77.5,
    preference=PreferencePrior(RNG.normal(size=(3, D)), np.array([1.5, 1.6, 1.7])),
    report={"prompts": 60},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "prior.npz"
    FULL.save(path)
    return path


def test_everything_survives_the_file(saved: Path) -> None:
    """Loading gives back every number exactly, in the models' order."""
    found = Prior.load(saved)
    plain = ("kind", "models", "hyper", "mean_costs", "calibration", "input_tokens", "report", "encoder", "fingerprint")
    assert [getattr(found, name) for name in plain] == [getattr(FULL, name) for name in plain]
    np.testing.assert_array_equal(found.contexts, FULL.contexts)
    packed = {model: arm.pack() for model, arm in found.statistics.items()}
    assert packed == {model: arm.pack() for model, arm in FULL.statistics.items()}
    np.testing.assert_array_equal(found.log_costs["ü"].A, FULL.log_costs["ü"].A)
    assert found.preference is not None
    assert FULL.preference is not None
    np.testing.assert_array_equal(found.preference.theta, FULL.preference.theta)
    assert found.observations == 60


def test_battles_survive_the_file(tmp_path: Path) -> None:
    """Sums per pair come back exactly, so the arms of any catalog are solved as before."""
    rng = np.random.default_rng(1)
    a = rng.integers(0, 3, 80)
    votes = gather(
        ("x", "ü", "z"), CONTEXTS, prompt=rng.integers(0, 60, 80), a=a, b=(a + 1) % 3,
        outcome=rng.integers(-1, 2, 80).astype(np.float64), vote_noise=0.3, foreign=False,
    )  # fmt: skip
    prior = Prior("battles", PROJECTION, CONTEXTS, votes.models, battles=votes, hyper=Hyper(tau_d2=0.004))
    prior.save(tmp_path / "p.npz")
    found = Prior.load(tmp_path / "p.npz")
    assert found.battles is not None
    plain = ("models", "vote_noise", "log_determinant", "foreign", "counts")
    assert [getattr(found.battles, name) for name in plain] == [getattr(votes, name) for name in plain]
    for catalog in (votes.models, ("ü", "new")):
        packed = {model: arm.pack() for model, arm in found.arms(catalog).items()}
        assert packed == {model: arm.pack() for model, arm in prior.arms(catalog).items()}
    assert tuple(found.arms(("ü", "new"))) == ("ü",)


def test_contexts_of_a_loaded_projection_are_the_same(saved: Path) -> None:
    """A worker that loads the file computes the contexts that the sums were made of."""
    found = Prior.load(saved).projection.contexts(EMBEDDINGS, TEXTS, TASKS)
    np.testing.assert_array_equal(found, CONTEXTS)


def test_without_data_it_survives_too(tmp_path: Path) -> None:
    """A prior of texts only has no models, and loads as such."""
    Prior("texts", PROJECTION, CONTEXTS).save(tmp_path / "p.npz")
    found = Prior.load(tmp_path / "p.npz")
    assert (found.models, dict(found.statistics), found.preference, found.observations) == ((), {}, None, 0)


def test_every_damaged_byte_is_noticed_or_harmless(saved: Path) -> None:
    """A changed byte anywhere gives a PriorError, or else the very same prior."""
    data = saved.read_bytes()
    for position in range(0, len(data), len(data) // 400):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        saved.write_bytes(damaged)
        with contextlib.suppress(PriorError):
            found = Prior.load(saved)
            assert found.fingerprint == FULL.fingerprint
            assert found.statistics["a/b"].pack() == FULL.statistics["a/b"].pack()


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    """The line says what to do, and nothing of how the file could be loaded unsafely."""
    (tmp_path / "models.yaml").write_text("models: []")
    with pytest.raises(PriorError, match=r"models\.yaml: damaged, or no prior artefact; build it") as raised:
        Prior.load(tmp_path / "models.yaml")
    assert "pickle" not in str(raised.value)


def test_exchanged_array_is_noticed(saved: Path) -> None:
    """A well-formed archive with one other array fails the checksum."""
    with np.load(saved) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["contexts"] = arrays["contexts"] + 1
    np.savez(saved, **arrays)
    with pytest.raises(PriorError, match="checksum differs"):
        Prior.load(saved)


def test_other_version_says_what_to_do(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another version names both versions and the command that makes a new one."""
    monkeypatch.setattr(artefact, "VERSION", 99)
    with pytest.raises(PriorError, match=r"version 2, this program reads 99; build it again with `pilot pretrain`"):
        Prior.load(saved)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not an archive", b"\x93NUMPY\x01\x00"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Something else under that name is an error that names the file."""
    path = tmp_path / "p.npz"
    path.write_bytes(content)
    with pytest.raises(PriorError, match=r"p\.npz: damaged, or no prior artefact"):
        Prior.load(path)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    """An archive without our arrays is no prior."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    path = tmp_path / "p.npz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(PriorError, match="no prior artefact"):
        Prior.load(path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    """An archive with pickled objects is refused, not executed."""
    path = tmp_path / "p.npz"
    np.savez(path, checksum=np.array([{"a": 1}], dtype=object), meta=np.zeros(1))
    with pytest.raises(PriorError, match="damaged, or no prior"):
        Prior.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path without a file says so."""
    with pytest.raises(PriorError, match=r"gone\.npz: No such file"):
        Prior.load(tmp_path / "gone.npz")


def test_saving_replaces_only_by_a_complete_file(saved: Path) -> None:
    """When writing fails half-way the old file is still there, and usable."""
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        replace(FULL, report={"bad": object()}).save(saved)
    assert saved.read_bytes() == before


def test_shipped_prior_has_what_a_router_needs() -> None:
    """The default prior: MiniLM to 25 directions, 16 task buckets and a constant, 400 contexts, no rewards."""
    found = default_prior()
    assert (found.kind, found.projection.embedding_dimension, found.projection.dimension) == ("none", 384, 42)
    assert found.contexts.shape == (400, 42)
    assert (found.models, dict(found.statistics), found.observations) == ((), {}, 0)
    np.testing.assert_allclose(np.linalg.norm(found.contexts[:, :25], axis=1), 1, rtol=1e-5)
    assert default_prior() is found
