"""The list of licences: complete, and as the script makes it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_licences.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_licences", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(script: ModuleType) -> dict[str, str]:
    """The licences of the page by package."""
    return dict(re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| ([^|]*) \|", script.PAGE.read_text("utf-8"), re.MULTILINE))


def test_every_package_of_an_installation_is_listed(script: ModuleType) -> None:
    """Whatever `pip install` brings here, extras included, is on the page with the licence that it states."""
    page, installed = listed(script), script.rows()
    assert {name: licence for name, (package, _) in installed.items() if (licence := script.licence(package))} == {
        name: licence for name, licence in page.items() if name in installed
    }
    assert {"numpy", "faust-streaming", "torch", "matplotlib", "opentelemetry-sdk"} <= set(page)


def test_no_licence_is_left_open(script: ModuleType) -> None:
    """A package whose metadata are silent is looked up by hand."""
    assert [name for name, licence in listed(script).items() if not licence.strip()] == []
