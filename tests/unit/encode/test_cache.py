"""The cache in front of an encoder."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.encode.counting import CountingEncoder
from worker.encode import CachedEncoder
from worker.observe.records import Record, TextsEncoded


def test_a_text_is_encoded_once() -> None:
    """A second call with the same text asks the encoder nothing and gives the same embedding."""
    encoder = CountingEncoder()
    cache = CachedEncoder(encoder)
    first, again = cache.encode(["a", "b"]), cache.encode(["b", "a"])
    assert encoder.calls == [["a", "b"]]
    assert np.array_equal(first, again[::-1])


def test_equal_texts_of_one_call_are_encoded_once() -> None:
    """Within a batch, too, only the first of equal texts costs anything."""
    encoder = CountingEncoder()
    cache = CachedEncoder(encoder)
    vectors = cache.encode(["a", "b", "a"])
    assert encoder.calls == [["a", "b"]]
    assert np.array_equal(vectors[0], vectors[2])
    assert (cache.hits, cache.misses) == (1, 2)


def test_the_least_recently_used_is_forgotten_first() -> None:
    """Beyond its capacity the cache drops what was not asked for the longest."""
    encoder = CountingEncoder()
    cache = CachedEncoder(encoder, capacity=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.encode([text])
    assert encoder.calls == [["a"], ["b"], ["c"], ["b"]]


def test_a_batch_larger_than_the_capacity_is_answered() -> None:
    """Capacity bounds what is kept, not what can be asked."""
    cache = CachedEncoder(CountingEncoder(), capacity=2)
    texts = [str(n) for n in range(5)]
    assert np.array_equal(cache.encode(texts), CountingEncoder().encode(texts))


def test_hits_and_misses_are_observed() -> None:
    """Each call reports how many texts were known and how many were not."""
    seen: list[Record] = []

    class Notes:
        def observe(self, record: Record) -> None:
            seen.append(record)

    cache = CachedEncoder(CountingEncoder(), observer=Notes())
    cache.encode(["a", "b"])
    cache.encode(["b", "c"])
    assert seen == [TextsEncoded(0, 2), TextsEncoded(1, 1)]


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), max_size=12), st.integers(1, 4))
def test_it_answers_as_the_encoder_does(batches: list[list[str]], capacity: int) -> None:
    """Whatever was asked before and forgotten since, the embeddings are the encoder's."""
    cache = CachedEncoder(CountingEncoder(), capacity)
    for batch in batches:
        assert np.array_equal(cache.encode(batch), CountingEncoder().encode(batch))
