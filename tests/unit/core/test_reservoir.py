"""The reservoir: the last contexts, whenever they are looked at."""

import numpy as np

from worker.core.reservoir import CAPACITY, Reservoir


def added(count: int, look_every: int | None = None) -> Reservoir:
    reservoir = Reservoir(np.full((3, 2), -1.0), 9.0)
    for number in range(count):
        reservoir.add(np.array([float(number), 1.0]), float(number))
        if look_every is not None and number % look_every == 0:
            assert len(reservoir.contexts) == len(reservoir.tokens)
    return reservoir


def test_starts_with_the_sample() -> None:
    """Before any query it holds the prior's contexts, each of the usual length."""
    reservoir = added(0)
    assert reservoir.contexts.tolist() == [[-1.0, -1.0]] * 3
    assert reservoir.tokens.tolist() == [9.0] * 3


def test_new_queries_join_the_sample() -> None:
    """While there is room nothing is forgotten."""
    reservoir = added(5)
    assert reservoir.contexts[:, 0].tolist() == [-1.0] * 3 + [0.0, 1.0, 2.0, 3.0, 4.0]
    assert reservoir.tokens.tolist() == [9.0] * 3 + [0.0, 1.0, 2.0, 3.0, 4.0]


def test_keeps_the_last_of_many() -> None:
    """Of more queries than it holds the oldest are gone, context and tokens alike."""
    for count in (CAPACITY, CAPACITY + 1, 3 * CAPACITY - 7):
        reservoir = added(count)
        expected = list(range(count - CAPACITY, count))
        assert sorted(reservoir.contexts[:, 0].tolist()) == expected
        assert reservoir.contexts[:, 0].tolist() == reservoir.tokens.tolist()


def test_looking_changes_nothing() -> None:
    """However often somebody looks in between, the content is the same."""
    for look_every in (1, 25, 200):
        watched, unwatched = added(1_000, look_every), added(1_000)
        np.testing.assert_array_equal(watched.contexts, unwatched.contexts)
        np.testing.assert_array_equal(watched.tokens, unwatched.tokens)
