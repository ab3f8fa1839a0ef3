"""The encoder seen from the event loop: concurrent calls share micro-batches in one thread of their own.

The loop never waits for the model, and the model never runs twice at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from worker.encode.base import Encoder, Floats

MAX_BATCH = 32
GATHER_S = 0.002  # a text in a full batch costs about two thirds of one on its own

_Batch = list[tuple[str, asyncio.Future[Floats]]]


class AsyncEncoder:
    """`await encoder.encode(text)` for several agents of one event loop.

    While a batch is being encoded the next one gathers, so batches grow with the load by themselves.
    """

    def __init__(self, encoder: Encoder, max_batch: int = MAX_BATCH, gather_s: float = GATHER_S) -> None:
        self._encoder = encoder
        self._max_batch = max_batch
        self._gather_s = gather_s
        self._waiting: deque[tuple[str, asyncio.Future[Floats]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self.identity = encoder.identity
        self.dimension = encoder.dimension
        self._served = False

    @property
    def loading(self) -> bool:
        """Whether a first text waits for the weights, which takes seconds: without a text there is no model."""
        return self._running is not None and not self._served

    async def encode(self, text: str) -> Floats:
        """The embedding of one text, shape (E,), unit length. Raises what the encoder raises."""
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain(), name="encoder batches")
        return await future

    async def close(self) -> None:
        """Finish what is waiting, then end the thread. Calls after it raise RuntimeError."""
        if self._running is not None:
            await self._running
        self._thread.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _drain(self) -> None:
        try:
            await asyncio.sleep(self._gather_s)
            while batch := self._take():
                await self._encode(batch)
        finally:
            self._running = None

    async def _encode(self, batch: _Batch) -> None:
        texts = [text for text, _ in batch]
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode, texts)
        except Exception as error:  # noqa: BLE001 - belongs to the callers, who wait for it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        self._served = True
        for (_, future), vector in zip(batch, vectors, strict=True):
            if not future.done():
                future.set_result(vector)

    def _take(self) -> _Batch:
        """The next batch; callers that gave up meanwhile are left out."""
        batch: _Batch = []
        while self._waiting and len(batch) < self._max_batch:
            text, future = self._waiting.popleft()
            if not future.done():
                batch.append((text, future))
        return batch
