"""Money: whole nano-dollars inside, USD floats only at the edges.

Integer sums are exact and do not depend on the order of additions, so a replay
that adds the same amounts in another order ends at the same balance.
"""

from __future__ import annotations

NANOS_PER_USD = 1_000_000_000
_MOST_NANOS = 2**63 - 1


def to_nanos(usd: float) -> int:
    """Round USD to whole nano-dollars, ties to even.

    Raises:
        ValueError, OverflowError: for NaN and infinity.
    """
    return round(usd * NANOS_PER_USD)


def saturated(nanos: int) -> int:
    """A sum as state can keep it, in 64 bits: nonsense that is reported for years must not stop a worker."""
    return max(-_MOST_NANOS, min(nanos, _MOST_NANOS))


def to_usd(nanos: int) -> float:
    """The float nearest to a whole number of nano-dollars; prints with at most nine decimals."""
    return nanos / NANOS_PER_USD


def optional_usd(nanos: int | None) -> float | None:
    """`to_usd`, with None for "there is no limit"."""
    return None if nanos is None else to_usd(nanos)
