"""Uniform numbers that belong to a query: drawn from a hash of its id, so a replay draws the same."""

from __future__ import annotations

from hashlib import blake2b

_SCALE = 2.0**-64


def uniforms(query_id: str, purpose: bytes) -> tuple[float, float]:
    """Two independent numbers in [0, 1); draws for different purposes are independent too."""
    digest = blake2b(query_id.encode(), digest_size=16, person=purpose).digest()
    return int.from_bytes(digest[:8], "big") * _SCALE, int.from_bytes(digest[8:], "big") * _SCALE
