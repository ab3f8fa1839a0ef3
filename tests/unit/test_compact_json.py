"""JSON that is kept: how much memory it takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import orjson
import pytest

from worker import codecs, compact_json
from worker.core.fence import Fence
from worker.core.ledger import Spend

KEPT = 500
OVERHEAD = 64  # bytes of an object


def memory_of(make: Callable[[], bytes]) -> float:
    """Bytes that one such value takes."""
    tracemalloc.start()
    try:
        kept = [make() for _ in range(KEPT)]
        return tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [(1, 2.5), {"a": "x" * 900}, {"a": ["é" * 10] * 200}], ids=["short", "long", "list"])
def test_kept_json_takes_its_length(value: object) -> None:
    """The same bytes as orjson's, and no reserve behind them."""
    found = compact_json.dumps(value)
    assert found == orjson.dumps(value)
    assert memory_of(lambda: compact_json.dumps(value)) < len(found) + OVERHEAD


def test_a_window_in_the_store_takes_its_length() -> None:
    """What a user has spent is some 60 bytes of state, and so is its memory."""
    spend = Spend(settled=1, reserved=2, fence=Fence(query=7))
    assert memory_of(lambda: codecs.pack_spend(spend)) < len(codecs.pack_spend(spend)) + OVERHEAD
