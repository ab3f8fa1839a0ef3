"""Uniform numbers that belong to a query: drawn from a hash of its id, so a replay draws the same."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct

_SCALE = 2.0**-64
_halves = Struct(">2Q").unpack


@lru_cache(maxsize=16)
def _hash(purpose: bytes) -> blake2b:
    """The empty hash of a purpose; a copy costs less than its parameters."""
    return blake2b(digest_size=16, person=purpose)


def uniforms(query_id: str, purpose: bytes) -> tuple[float, float]:
    """Two independent numbers in [0, 1); draws for different purposes are independent too."""
    hashed = _hash(purpose).copy()
    hashed.update(query_id.encode())
    first, second = _halves(hashed.digest())
    return first * _SCALE, second * _SCALE
