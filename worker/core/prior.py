"""The prior artefact: everything that a router knows before its first feedback, in one file.

A file is a NumPy archive without pickles: arrays by name, one JSON document for what
is not numeric, and a SHA-256 over all of it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from worker.core.coupled import Hyper
from worker.core.kinds import Clusters, Tasks
from worker.core.pairs import PairSums
from worker.core.projection import Projection
from worker.core.statistics import ArmStatistics, Moments, StatisticsError
from worker.core.verdict import FloatArray

VERSION = 2
PriorKind = Literal["none", "table", "battles", "texts", "triplet"]
_Arrays = dict[str, NDArray[Any]]
# What zipfile, zlib and NumPy raise over damaged bytes, an unknown compression or encryption included.
_UNREADABLE = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, AttributeError)


class PriorError(ValueError):
    """A file that is no usable prior. Operator action: build it again with `pilot pretrain`."""


@dataclass(frozen=True)
class PreferencePrior:
    """What the paper's second phase learned: θ_k⁰ of unit length (K, d), and λ_k (K,)."""

    theta: FloatArray
    strength: FloatArray


@dataclass(frozen=True)
class Prior:
    """A prior for the arms in `models`; other arms start at the mean of all.

    `statistics` are the sums of a table's rewards by model, `battles` those of votes by pair
    of models, and `log_costs` the moments of log cost in USD by model: each only where there
    was such data; `arms` reads either. `hyper` is what suits them. `contexts`, float64 of
    shape (m, d), is a sample of queries to plan with. `mean_costs` in USD and
    `calibration`, s_k = Σ true ÷ Σ predicted cost, are by model where costs were known.
    `input_tokens` is the mean of the prompts' estimated length.
    """

    kind: PriorKind
    projection: Projection
    contexts: FloatArray
    models: tuple[str, ...] = ()
    statistics: Mapping[str, ArmStatistics] = field(default_factory=dict)
    battles: PairSums | None = None
    hyper: Hyper = field(default_factory=Hyper)
    log_costs: Mapping[str, Moments] = field(default_factory=dict)
    mean_costs: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    input_tokens: float | None = None
    preference: PreferencePrior | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        """Id of the encoder whose embeddings the projection was fitted on."""
        return self.projection.encoder

    @property
    def fingerprint(self) -> str:
        """Names the meaning of a context; sums of two fingerprints never mix."""
        return self.projection.fingerprint

    @property
    def observations(self) -> int:
        """Rewards that the statistics hold."""
        return sum(arm.reward.n for arm in self.statistics.values())

    def arms(self, models: Sequence[str], hyper: Hyper | None = None) -> dict[str, ArmStatistics]:
        """What is known of these models before feedback; a model that it does not know is left out.

        Sums from battles hold for a coupled solve of exactly these models with exactly these
        hyper-parameters, its own if None: ask again when either changes.
        """
        if self.battles is not None:
            return self.battles.arms(models, hyper or self.hyper)
        return {model: self.statistics[model] for model in models if model in self.statistics}

    def save(self, path: Path) -> None:
        """Write the artefact. A file that was there is replaced only by a complete one."""
        named: dict[str, Any] = self._arrays()
        named["meta"] = np.frombuffer(json.dumps(self._meta()).encode(), np.uint8)
        named["checksum"] = np.frombuffer(_digest(named), np.uint8)
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **named)
        temporary.replace(path)

    def _meta(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            "models": self.models,
            "encoder": self.projection.encoder,
            "constant": self.projection.constant,
            "tasks": None if self.projection.tasks is None else self.projection.tasks.seen,
            "word_weight": None if self.projection.clusters is None else self.projection.clusters.weight,
            "hyper": asdict(self.hyper),
            "mean_costs": dict(self.mean_costs),
            "calibration": dict(self.calibration),
            "input_tokens": self.input_tokens,
            "learned": [model for model in self.models if model in self.statistics],
            "priced": [model for model in self.models if model in self.log_costs],
            "battles": None if self.battles is None else _battle_meta(self.battles),
            "report": dict(self.report),
        }

    def _arrays(self) -> _Arrays:
        # Contexts have float32 precision by construction, so nothing is lost.
        arrays: _Arrays = {"contexts": self.contexts.astype(np.float32)}
        arrays["projection.mean"] = self.projection.mean
        arrays["projection.components"] = self.projection.components
        if (clusters := self.projection.clusters) is not None:
            # These have float32 precision too, and are the largest part of a file.
            arrays["clusters.idf"] = clusters.idf.astype(np.float32)
            arrays["clusters.directions"] = clusters.directions.astype(np.float32)
            arrays["clusters.centres"] = clusters.centres.astype(np.float32)
        for index, model in enumerate(self.models):
            if model in self.statistics:
                arrays[f"arm.{index}"] = np.frombuffer(self.statistics[model].pack(), np.uint8)
            if model in self.log_costs:
                arrays[f"cost.{index}"] = _packed(self.log_costs[model])
        for index, moments in enumerate(() if self.battles is None else self.battles.pairs.values()):
            arrays[f"pair.{index}"] = _packed(moments)
        if self.preference is not None:
            arrays["preference.theta"] = self.preference.theta
            arrays["preference.strength"] = self.preference.strength
        return arrays

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read an artefact.

        Raises:
            PriorError: no such file, another version, or damage; the line says what to do.
        """
        try:
            with path.open("rb") as file:
                return _read(file, str(path))
        except OSError as error:
            raise PriorError(f"{path}: {error.strerror}; name a file that `pilot pretrain` wrote") from None


def _battle_meta(battles: PairSums) -> dict[str, Any]:
    return {
        "pairs": list(battles.pairs),
        "vote_noise": battles.vote_noise,
        "log_determinant": battles.log_determinant,
        "foreign": battles.foreign,
    }


def _packed(moments: Moments) -> NDArray[np.uint8]:
    return np.frombuffer(ArmStatistics(moments, Moments.zeros(moments.dimension)).pack(), np.uint8)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode() + array.tobytes())
    return digest.digest()


def _read(file: IO[bytes], name: str) -> Prior:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        checksum = arrays.pop("checksum").tobytes()
        meta = json.loads(arrays["meta"].tobytes())
    except _UNREADABLE:
        raise PriorError(f"{name}: damaged, or no prior artefact; build it with `pilot pretrain`") from None
    if checksum != _digest(arrays):
        raise PriorError(f"{name}: damaged, the checksum differs; copy it again or build it with `pilot pretrain`")
    if meta.get("version") != VERSION:
        found = meta.get("version")
        raise PriorError(f"{name}: version {found}, this program reads {VERSION}; build it again with `pilot pretrain`")
    try:
        return _prior(arrays, meta)
    except (KeyError, TypeError, StatisticsError) as error:
        raise PriorError(f"{name}: incomplete ({error}); build it again with `pilot pretrain`") from None


def _prior(arrays: _Arrays, meta: dict[str, Any]) -> Prior:
    models = tuple(meta["models"])
    projection = _projection(arrays, meta)
    preference = None
    if "preference.theta" in arrays:
        preference = PreferencePrior(arrays["preference.theta"], arrays["preference.strength"])
    return Prior(
        kind=meta["kind"],
        projection=projection,
        contexts=arrays["contexts"].astype(np.float64),
        models=models,
        statistics={m: _unpacked(arrays, "arm", models.index(m)) for m in meta["learned"]},
        hyper=Hyper(**meta["hyper"]),
        battles=_battles(arrays, meta),
        log_costs={m: _unpacked(arrays, "cost", models.index(m)).reward for m in meta["priced"]},
        mean_costs=meta["mean_costs"],
        calibration=meta["calibration"],
        input_tokens=meta["input_tokens"],
        preference=preference,
        report=meta["report"],
    )


def _battles(arrays: _Arrays, meta: dict[str, Any]) -> PairSums | None:
    if (said := meta["battles"]) is None:
        return None
    pairs = {(a, b): _unpacked(arrays, "pair", index).reward for index, (a, b) in enumerate(said["pairs"])}
    return PairSums(tuple(meta["models"]), pairs, said["vote_noise"], said["log_determinant"], said["foreign"])


def _projection(arrays: _Arrays, meta: dict[str, Any]) -> Projection:
    tasks, clusters = None, None
    if meta["tasks"] is not None:
        tasks = Tasks(tuple(meta["tasks"]))
    if meta["word_weight"] is not None:
        idf, directions, centres = (arrays[f"clusters.{part}"] for part in ("idf", "directions", "centres"))
        clusters = Clusters(
            idf.astype(np.float64), directions.astype(np.float64), centres.astype(np.float64), meta["word_weight"]
        )
    return Projection(
        meta["encoder"],
        arrays["projection.mean"],
        arrays["projection.components"],
        constant=meta["constant"],
        tasks=tasks,
        clusters=clusters,
    )


def _unpacked(arrays: _Arrays, kind: str, index: int) -> ArmStatistics:
    return ArmStatistics.unpack(arrays[f"{kind}.{index}"].tobytes())


@cache
def default_prior() -> Prior:
    """The shipped one: a projection and a sample of contexts from public prompts, no rewards."""
    asset = resources.files("worker.core").joinpath("assets/default_prior.npz")
    with asset.open("rb") as file:
        return _read(file, "the shipped default prior")
