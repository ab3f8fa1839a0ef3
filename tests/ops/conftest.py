"""What operators see and do. Run by `make test-ops`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ops.browser import Tab, browsing, find


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    """A tab of a Chromium of its own."""
    executable = find()
    if executable is None:
        pytest.skip("Chromium is not installed")
    async with browsing(executable, tmp_path / "profile") as tab:
        yield tab
