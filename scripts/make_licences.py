"""Write docs/licences.md: every package that an installation brings, with its licence, from installed metadata.

Run it where everything is installed: `python scripts/make_licences.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("", "minilm", "evaluate", "rocksdb", "tracing")
_CLASSIFIER = "License :: OSI Approved :: "
_SHORT = 60  # longer fields hold the whole text
# What metadata do not say.
KNOWN = {"cuda-toolkit": "none of its own: it only names NVIDIA's libraries"}
_HEAD = """\
# Licences of dependencies

Made by `python scripts/make_licences.py` from installed metadata, on Linux, where PyTorch brings NVIDIA's libraries.
PILOT Router itself is Apache-2.0. Packages for tests and benchmarks are not listed: they are not installed with it.

| package | version | licence | comes with |
|---|---|---|---|
"""


def closure(extra: str) -> dict[str, Distribution]:
    """Every installed package that `pilot-router[extra]` needs here, by name."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    ours = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found: dict[str, Distribution] = {}
    waiting = list(needed(ours, frozenset()))
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        waiting += needed(found[name].requires or (), extras)
    return found


def needed(requires: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What these requirements ask for here, with some extras, as (name, extras)."""
    for line in requires:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def licence(package: Distribution) -> str:
    """As the package's own metadata say it; empty if they do not."""
    metadata = package.metadata
    name = canonicalize_name(metadata["Name"])
    osi = [text.removeprefix(_CLASSIFIER) for text in metadata.get_all("Classifier") or () if _CLASSIFIER in text]
    field = (metadata["License"] or "").strip()
    short = field if len(field) <= _SHORT and "\n" not in field and field != "UNKNOWN" else ""
    return KNOWN.get(name) or metadata["License-Expression"] or short or ", ".join(osi)


def rows() -> dict[str, tuple[Distribution, str]]:
    """Every package, with the extra that first brings it, by name."""
    found: dict[str, tuple[Distribution, str]] = {}
    for extra in EXTRAS:
        for name, package in closure(extra).items():
            found.setdefault(name, (package, extra))
    return dict(sorted(found.items()))


def render() -> str:
    """The page."""
    lines = [
        f"| {name} | {package.version} | {licence(package)} | {extra or 'always'} |"
        for name, (package, extra) in rows().items()
    ]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
