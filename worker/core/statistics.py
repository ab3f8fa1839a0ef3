"""Sufficient statistics of one arm: sums that merge by addition, and their exact binary form.

Every partition adds its own feedback to its own sums and an arm is the sum of all
of them, so nothing here may depend on the order of lessons beyond float rounding.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from worker.core.verdict import FloatArray

_VERSION = 1
_HEADER = struct.Struct("<BI")  # version, CRC-32 of what follows
_COUNTS = struct.Struct("<H7q")  # dimension, then the whole numbers
_SCALARS = struct.Struct("<2d")
_MOST_WAITING = 64  # pairs of one sum; more save nothing


class StatisticsError(ValueError):
    """Bytes that are no packed statistics. Operator action: restore the record or drop its key."""


class Moments:
    """Σψψᵀ, Σyψ, count, Σy and Σy² of pairs (context, outcome).

    `A` has shape (d, d), `b` (d,); `squares` is kept for the marginal likelihood. Pairs
    that were learned wait until somebody reads a sum: one product of many costs a fraction
    of as many products of one. A context may not change after it was given.
    """

    __slots__ = ("_A", "_b", "_waiting", "n", "squares", "total")

    def __init__(self, A: FloatArray, b: FloatArray, n: int = 0, total: float = 0.0, squares: float = 0.0) -> None:
        self._A, self._b = A, b
        self.n, self.total, self.squares = n, total, squares
        self._waiting: list[tuple[FloatArray, float]] = []

    @property
    def A(self) -> FloatArray:  # noqa: N802 - its name in the literature
        """Σψψᵀ, shape (d, d)."""
        self._add_waiting()
        return self._A

    @A.setter
    def A(self, value: FloatArray) -> None:  # noqa: N802
        self._A = value

    @property
    def b(self) -> FloatArray:
        """Σyψ, shape (d,)."""
        self._add_waiting()
        return self._b

    @b.setter
    def b(self, value: FloatArray) -> None:
        self._b = value

    def _add_waiting(self) -> None:
        if self._waiting:
            contexts, outcomes = zip(*self._waiting, strict=True)
            self._waiting.clear()
            X = np.concatenate(contexts).reshape(len(contexts), -1)
            self._A += X.T @ X
            self._b += np.array(outcomes) @ X

    @classmethod
    def zeros(cls, dimension: int) -> Moments:
        """Sums of nothing, for contexts of shape (dimension,)."""
        return cls(np.zeros((dimension, dimension)), np.zeros(dimension))

    @classmethod
    def of(cls, contexts: FloatArray, outcomes: FloatArray) -> Moments:
        """The sums over n contexts of shape (n, d) and outcomes of shape (n,)."""
        total, squares = float(outcomes.sum()), float(outcomes @ outcomes)
        return cls(contexts.T @ contexts, contexts.T @ outcomes, len(outcomes), total, squares)

    @property
    def dimension(self) -> int:
        """Length d of a context."""
        return len(self._b)

    def learn(self, x: FloatArray, y: float) -> None:
        """Add one pair."""
        self._waiting.append((x, y))
        if len(self._waiting) >= _MOST_WAITING:
            self._add_waiting()
        self.n += 1
        self.total += y
        self.squares += y * y

    def revise(self, x: FloatArray, old: float, new: float) -> None:
        """Replace the outcome of a pair that has been added."""
        self.b += x * (new - old)
        self.total += new - old
        self.squares += new * new - old * old

    def __iadd__(self, other: Moments) -> Self:
        self.A += other.A
        self.b += other.b
        self.n += other.n
        self.total += other.total
        self.squares += other.squares
        return self

    def copy(self) -> Moments:
        """Sums that change independently of these."""
        return Moments(self.A.copy(), self.b.copy(), self.n, self.total, self.squares)


@dataclass(slots=True, eq=False)
class ArmStatistics:
    """Everything learned about one arm from feedback.

    `log_tokens` are moments of the log of output tokens (at least 1), `output_tokens`
    their plain sum. `costs_settled` counts settled money parts, failures at 0 included.
    The two cost sums, in nano-dollars, hold only calls whose cost had been predicted:
    their ratio is the bias of the cost model.
    """

    reward: Moments
    log_tokens: Moments
    output_tokens: int = 0
    costs_settled: int = 0
    cost_true_nanos: int = 0
    cost_predicted_nanos: int = 0
    errors: int = 0

    VERSION: ClassVar[int] = _VERSION

    @classmethod
    def zeros(cls, dimension: int) -> ArmStatistics:
        """Statistics of an arm that nobody has tried."""
        return cls(Moments.zeros(dimension), Moments.zeros(dimension))

    @property
    def dimension(self) -> int:
        """Length d of a context."""
        return self.reward.dimension

    def __iadd__(self, other: ArmStatistics) -> Self:
        self.reward += other.reward
        self.log_tokens += other.log_tokens
        self.output_tokens += other.output_tokens
        self.costs_settled += other.costs_settled
        self.cost_true_nanos += other.cost_true_nanos
        self.cost_predicted_nanos += other.cost_predicted_nanos
        self.errors += other.errors
        return self

    def copy(self) -> ArmStatistics:
        """Statistics that change independently of these."""
        return ArmStatistics(
            self.reward.copy(),
            self.log_tokens.copy(),
            self.output_tokens,
            self.costs_settled,
            self.cost_true_nanos,
            self.cost_predicted_nanos,
            self.errors,
        )

    def pack(self) -> bytes:
        """Bytes from which `unpack` restores exactly these numbers."""
        counts = (self.reward.n, self.log_tokens.n, self.output_tokens, self.costs_settled)
        money = (self.cost_true_nanos, self.cost_predicted_nanos, self.errors)
        numbers = _COUNTS.pack(self.dimension, *counts, *money)
        body = numbers + _pack_moments(self.reward) + _pack_moments(self.log_tokens)
        return _HEADER.pack(_VERSION, zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, data: bytes) -> ArmStatistics:
        """Read what `pack` wrote.

        Raises:
            StatisticsError: another version, or bytes that were cut or changed.
        """
        if not data or data[0] != _VERSION:
            found = data[0] if data else "nothing"
            raise StatisticsError(f"arm statistics of version {found}, this program reads version {_VERSION}")
        if len(data) < _HEADER.size + _COUNTS.size:
            raise StatisticsError(f"arm statistics cut off after {len(data)} bytes")
        _, checksum = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        if zlib.crc32(body) != checksum:
            raise StatisticsError("arm statistics are damaged: the checksum differs")
        dimension, rewards, tokens, *sums = _COUNTS.unpack_from(body)
        reward, rest = _unpack_moments(body[_COUNTS.size :], dimension, rewards)
        log_tokens, _ = _unpack_moments(rest, dimension, tokens)
        return cls(reward, log_tokens, *sums)


@cache
def _upper(dimension: int) -> NDArray[np.int64]:
    """Flat positions of a square matrix's upper triangle."""
    rows, columns = np.triu_indices(dimension)
    positions: NDArray[np.int64] = rows * dimension + columns
    return positions


def _pack_moments(moments: Moments) -> bytes:
    """Scalars, b, then of A's upper triangle a bitmap of what is not zero and these values.

    Indicator features are never on together, so most of their part of A stays zero for ever.
    """
    triangle = moments.A.ravel()[_upper(moments.dimension)]
    present = triangle != 0
    vector, values = moments.b.astype("<f8").tobytes(), triangle[present].astype("<f8").tobytes()
    return b"".join((_SCALARS.pack(moments.total, moments.squares), vector, np.packbits(present).tobytes(), values))


def _unpack_moments(data: memoryview, dimension: int, count: int) -> tuple[Moments, memoryview]:
    total, squares = _SCALARS.unpack_from(data)
    start = _SCALARS.size
    b = np.frombuffer(data, "<f8", dimension, start).astype(np.float64)
    start += b.nbytes
    entries = dimension * (dimension + 1) // 2
    bitmap = np.frombuffer(data, np.uint8, (entries + 7) // 8, start)
    start += bitmap.nbytes
    present = np.unpackbits(bitmap, count=entries).astype(bool)
    triangle = np.zeros(entries)
    triangle[present] = np.frombuffer(data, "<f8", int(present.sum()), start)
    A = np.zeros((dimension, dimension))
    A.ravel()[_upper(dimension)] = triangle
    A += np.triu(A, 1).T
    end = start + 8 * int(present.sum())
    return Moments(A, b, count, total, squares), data[end:]
