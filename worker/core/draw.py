"""Uniform numbers that belong to a query: drawn from a hash of its id, so a replay draws the same."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

_SCALE = 2.0**-64
_halves = Struct(">2Q").unpack


def uniforms(query_id: str, purpose: bytes) -> tuple[float, float]:
    """Two independent numbers in [0, 1); draws for different purposes are independent too."""
    first, second = _halves(blake2b(query_id.encode(), digest_size=16, person=purpose).digest())
    return first * _SCALE, second * _SCALE
