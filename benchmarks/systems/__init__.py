"""Bandits behind one small surface: ours, and other people's as their documentation says they are used.

A library that is not installed is left out with a message; `pip install 'pilot-router[bench]'` brings them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Protocol

from worker.core.verdict import FloatArray


class System(Protocol):
    """A router over K arms that is told only what the arm it chose brought."""

    def decide(self, x: FloatArray) -> int:
        """The number of an arm for a context of shape (d,)."""

    def learn(self, arm: int, x: FloatArray, reward: float, cost_usd: float) -> None:
        """What the decision just made brought: a reward 0 to 1 and a cost."""


def missing(modules: Sequence[str]) -> list[str]:
    """Those of the modules that are not installed, after a line about them."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        print(f"left out, not installed: {', '.join(absent)} (pip install 'pilot-router[bench]')", file=sys.stderr)
    return absent
