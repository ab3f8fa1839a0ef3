"""Sums of an arm: merging, revising, packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.statistics import ArmStatistics, Moments, StatisticsError

D = 6


def sums(seed: int, n: int = 20) -> Moments:
    rng = np.random.default_rng(seed)
    return Moments.of(rng.normal(size=(n, D)), rng.random(n))


def arm(seed: int) -> ArmStatistics:
    return ArmStatistics(sums(seed), sums(seed + 1, 7), 900, 12, 3_000_000_001, 2_999_999_999, 2)


def same(left: Moments, right: Moments) -> bool:
    scalars = (left.n, left.total, left.squares) == (right.n, right.total, right.squares)
    return scalars and np.array_equal(left.A, right.A) and np.array_equal(left.b, right.b)


class TestMoments:
    def test_one_by_one_equals_at_once(self) -> None:
        """Learning pairs singly gives the sums of the whole array."""
        rng = np.random.default_rng(3)
        X, y = rng.normal(size=(30, D)), rng.random(30)
        singly = Moments.zeros(D)
        for x, outcome in zip(X, y, strict=True):
            singly.learn(x, outcome)
        together = Moments.of(X, y)
        np.testing.assert_allclose(singly.A, together.A, rtol=1e-12)
        np.testing.assert_allclose(singly.b, together.b, rtol=1e-12)
        assert (singly.n, singly.total, singly.squares) == pytest.approx((30, y.sum(), (y**2).sum()))

    @pytest.mark.parametrize("read_every", [1, 7, 500])
    def test_when_the_sums_are_read_changes_nothing(self, read_every: int) -> None:
        """Pairs that wait for a reader are counted once, whoever reads, copies or merges in between."""
        rng = np.random.default_rng(5)
        X, y = rng.normal(size=(200, D)), rng.random(200)
        learned = Moments.zeros(D)
        for number, (x, outcome) in enumerate(zip(X, y, strict=True)):
            learned.learn(x, outcome)
            if number % read_every == 0:
                assert learned.A[0, 0] == pytest.approx((X[: number + 1, 0] ** 2).sum())
                learned = learned.copy()
        merged = Moments.zeros(D)
        merged += learned
        for found in (learned, merged):
            np.testing.assert_allclose(found.A, X.T @ X, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found.b, y @ X, rtol=1e-12, atol=1e-12)

    def test_shards_merge_to_the_whole(self) -> None:
        """Two partitions' sums added are the sums of all their pairs."""
        rng = np.random.default_rng(4)
        X, y = rng.normal(size=(30, D)), rng.random(30)
        merged = Moments.of(X[:11], y[:11])
        merged += Moments.of(X[11:], y[11:])
        np.testing.assert_allclose(merged.A, Moments.of(X, y).A, rtol=1e-12)
        assert merged.n == 30

    def test_revised_outcome_counts_as_if_learned_first(self) -> None:
        """Revising replaces the outcome and leaves count and contexts alone."""
        x = np.arange(1.0, D + 1)
        revised, direct = sums(1), sums(1)
        revised.learn(x, 5.0)
        revised.revise(x, 5.0, 2.0)
        direct.learn(x, 2.0)
        assert revised.n == direct.n
        np.testing.assert_array_equal(revised.A, direct.A)
        np.testing.assert_allclose(revised.b, direct.b, rtol=1e-12)
        assert (revised.total, revised.squares) == pytest.approx((direct.total, direct.squares))

    def test_copy_is_independent(self) -> None:
        """Learning into a copy leaves the original as it was."""
        original = sums(2)
        twin = original.copy()
        twin.learn(np.ones(D), 1.0)
        assert same(original, sums(2))


class TestArmStatistics:
    def test_addition_adds_every_number(self) -> None:
        """No field is forgotten when shards are added."""
        total = arm(1)
        total += arm(5)
        assert (total.reward.n, total.log_tokens.n, total.output_tokens, total.costs_settled) == (40, 14, 1800, 24)
        assert (total.cost_true_nanos, total.cost_predicted_nanos, total.errors) == (6_000_000_002, 5_999_999_998, 4)
        np.testing.assert_allclose(total.log_tokens.b, sums(2, 7).b + sums(6, 7).b)

    def test_copy_is_independent(self) -> None:
        """Adding to a copy leaves the original as it was."""
        original = arm(1)
        twin = original.copy()
        twin += arm(2)
        assert original.pack() == arm(1).pack()

    def test_addition_refuses_another_dimension(self) -> None:
        """Sums over contexts of two lengths are never mixed silently."""
        with pytest.raises(ValueError, match="broadcast"):
            arm(1).__iadd__(ArmStatistics.zeros(D + 1))


class TestPacking:
    @given(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=D, max_size=D),
        st.integers(0, 2**62),
        st.floats(-1e300, 1e300),
    )
    def test_round_trip_is_exact(self, row: list[float], nanos: int, total: float) -> None:
        """Unpacking gives back every bit, negative zero and huge sums included."""
        packed = arm(1)
        packed.reward.A[0, :] = packed.reward.A[:, 0] = row
        packed.reward.total, packed.cost_true_nanos = total, nanos
        found = ArmStatistics.unpack(packed.pack())
        assert same(found.reward, packed.reward)
        assert same(found.log_tokens, packed.log_tokens)
        counters = ("output_tokens", "costs_settled", "cost_true_nanos", "cost_predicted_nanos", "errors")
        assert [getattr(found, name) for name in counters] == [getattr(packed, name) for name in counters]

    def test_unpacked_sums_can_be_changed(self) -> None:
        """State read from a changelog goes on learning."""
        found = ArmStatistics.unpack(arm(1).pack())
        found.reward.learn(np.ones(D), 1.0)
        assert found.reward.n == 21

    def test_indicators_that_never_met_take_no_space(self) -> None:
        """Entries that are zero are not stored: 90 disjoint indicators cost less than a dense block of 40."""
        indicators = ArmStatistics.zeros(90)
        for index in range(90):
            indicators.reward.learn(np.eye(90)[index], 1.0)
        dense = ArmStatistics.zeros(40)
        dense.reward.learn(np.ones(40), 1.0)
        assert len(indicators.pack()) < len(dense.pack())
        assert same(ArmStatistics.unpack(indicators.pack()).reward, indicators.reward)

    @pytest.mark.parametrize("data", [b"", b"\x01", b"\x63" + arm(1).pack()[1:], arm(1).pack()[:-1]])
    def test_unknown_version_and_cut_bytes_are_refused(self, data: bytes) -> None:
        """Bytes of another version or length are an error, not other numbers."""
        with pytest.raises(StatisticsError, match="arm statistics"):
            ArmStatistics.unpack(data)

    def test_every_changed_byte_is_noticed(self) -> None:
        """One flipped bit anywhere in the value is an error."""
        packed = arm(1).pack()
        for position in range(len(packed)):
            damaged = bytearray(packed)
            damaged[position] ^= 0x10
            with pytest.raises(StatisticsError):
                ArmStatistics.unpack(bytes(damaged))
