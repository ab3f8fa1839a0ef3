"""Who may import what: the pure core, Faust in one package, Kafka's client in two, no algebra in the agents."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "worker"
FILES = sorted(ROOT.rglob("*.py"))
CORE_MAY = ("worker.core", "worker.errors", "worker.money", "numpy")
# Parts of the standard library that reach outside; the prior artefact is a file, so `pathlib` is not one of them.
CORE_MAY_NOT = {"asyncio", "datetime", "logging", "os", "random", "socket", "subprocess", "threading", "time"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively"
            yield node.module or ""


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def importers(package: str) -> set[str]:
    """The folders of `worker` in which something of a package is imported."""
    found = [path for path in FILES if any(within(module, package) for module in imports(path))]
    return {name(path).split("/")[0] for path in found}


@pytest.mark.parametrize("path", [path for path in FILES if name(path).startswith("core/")], ids=name)
def test_core_is_pure(path: Path) -> None:
    """The core imports the standard library, numpy, itself, errors and money; no clock, environment or asyncio."""
    for module in imports(path):
        top = module.split(".")[0]
        allowed = top in sys.stdlib_module_names or any(within(module, package) for package in CORE_MAY)
        assert allowed, f"{name(path)} imports {module}"
        assert top not in CORE_MAY_NOT, f"{name(path)} imports {module}"


@pytest.mark.parametrize("package", ["faust", "mode"])
def test_faust_stays_in_stream(package: str) -> None:
    """Only `worker/stream` knows Faust."""
    assert importers(package) == {"stream"}


def test_kafka_client_stays_at_the_edge() -> None:
    """aiokafka is imported in `worker/kafka` and `worker/stream`, and by the demo, which plays the caller."""
    assert importers("aiokafka") <= {"kafka", "stream", "demo"}


@pytest.mark.parametrize("agent", ["route.py", "settle.py"])
def test_agents_do_no_linear_algebra(agent: str) -> None:
    """Handlers decode, ask the core and write: no matrix product stands in them."""
    for node in ast.walk(tree(ROOT / "stream" / agent)):
        assert not isinstance(node, ast.MatMult), f"{agent} multiplies matrices"
        algebra = isinstance(node, ast.Attribute) and node.attr in {
            "linalg",
            "dot",
            "matmul",
            "einsum",
            "inner",
            "outer",
        }
        assert not algebra, f"{agent}:{getattr(node, 'lineno', 0)} does linear algebra"


def test_core_does_not_import_the_shell() -> None:
    """Nothing in the core, the events or the errors depends on how records travel."""
    inner = [path for path in FILES if name(path).startswith("core/") or name(path) in ("events.py", "errors.py")]
    for path in inner:
        outward = [
            module for module in imports(path) if within(module, "worker.stream") or within(module, "worker.kafka")
        ]
        assert outward == [], f"{name(path)} imports {outward}"
