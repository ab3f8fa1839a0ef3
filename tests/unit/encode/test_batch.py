"""The encoder as several agents of one event loop see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.encode.counting import CountingEncoder
from worker.encode import AsyncEncoder, Floats
from worker.errors import UsageError


async def _all(encoder: AsyncEncoder, texts: list[str]) -> list[Floats]:
    return await asyncio.gather(*(encoder.encode(text) for text in texts))


async def test_concurrent_calls_share_a_batch() -> None:
    """Ten calls at once are one call of the model, and each gets its own embedding."""
    plain = CountingEncoder()
    texts = [f"text {n}" for n in range(10)]
    async with AsyncEncoder(plain) as encoder:
        vectors = await _all(encoder, texts)
    assert plain.calls == [texts]
    assert np.array_equal(vectors, CountingEncoder().encode(texts))
    assert vectors[0].shape == (encoder.dimension,)


async def test_a_batch_has_a_largest_size() -> None:
    """More calls than fit become several batches, in order."""
    plain = CountingEncoder()
    async with AsyncEncoder(plain, max_batch=32) as encoder:
        await _all(encoder, [str(n) for n in range(70)])
    assert [len(call) for call in plain.calls] == [32, 32, 6]


async def test_the_loop_goes_on_while_the_model_runs() -> None:
    """The model works in one thread of its own; the next batch gathers meanwhile."""
    plain = CountingEncoder(takes_s=0.05)
    async with AsyncEncoder(plain, gather_s=0) as encoder:
        first = asyncio.create_task(encoder.encode("first"))
        await asyncio.to_thread(plain.started.wait)
        assert not first.done()
        await _all(encoder, ["second", "third"])
    assert plain.calls == [["first"], ["second", "third"]]
    assert len(plain.threads) == 1
    assert not plain.threads & {"MainThread"}


async def test_a_failure_reaches_its_batch_and_no_other() -> None:
    """An error of the model is raised at the callers of that batch; later calls work."""
    async with AsyncEncoder(CountingEncoder()) as encoder:
        with pytest.raises(RuntimeError, match="no embedding for that"):
            await encoder.encode("bad")
        assert (await encoder.encode("good")).shape == (8,)


async def test_a_caller_that_gave_up_is_left_out() -> None:
    """A cancelled call is not encoded and disturbs nobody."""
    plain = CountingEncoder()
    async with AsyncEncoder(plain, gather_s=0.02) as encoder:
        impatient = asyncio.create_task(encoder.encode("impatient"))
        patient = asyncio.create_task(encoder.encode("patient"))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
    assert plain.calls == [["patient"]]


async def test_closing_finishes_what_waits() -> None:
    """Calls made before `close` are answered, calls after it are refused."""
    encoder = AsyncEncoder(CountingEncoder(takes_s=0.01))
    waiting = asyncio.create_task(encoder.encode("waiting"))
    await asyncio.sleep(0)
    await encoder.close()
    assert waiting.done() or (await waiting).shape == (8,)
    with pytest.raises(RuntimeError):
        await encoder.encode("late")


async def test_it_is_loading_until_the_first_text_is_served() -> None:
    """Nothing loads before there is a text; then whoever waits can see why."""
    async with AsyncEncoder(CountingEncoder(takes_s=0.01)) as encoder:
        assert not encoder.loading
        first = asyncio.create_task(encoder.encode("first"))
        await asyncio.sleep(0)
        assert encoder.loading
        await first
        assert not encoder.loading


async def test_an_encoder_that_cannot_be_loaded_says_so_to_the_first_caller() -> None:
    """The error reaches whoever sent the first text."""
    with pytest.raises(UsageError, match="PILOT_ENCODER"):
        await AsyncEncoder(Unusable()).encode("first")


class Unusable(CountingEncoder):
    """A model whose weights are missing."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise UsageError(f"PILOT_ENCODER: no weights for {len(texts)} texts")
