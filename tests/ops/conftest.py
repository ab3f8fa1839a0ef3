"""What operators see and do. Left out unless asked for: `make test-ops`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ops.browser import Tab, browsing, find

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = "ops" in config.option.markexpr
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ops)
            if not asked:
                item.add_marker(pytest.mark.skip(reason="run by `make test-ops`"))


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    """A tab of a Chromium of its own."""
    executable = find()
    if executable is None:
        pytest.skip("Chromium is not installed")
    async with browsing(executable, tmp_path / "profile") as tab:
        yield tab
