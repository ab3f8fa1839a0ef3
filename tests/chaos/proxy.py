"""A TCP proxy between a worker and its broker: it holds writes back, slows everything down, or cuts the line."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
HOST = "127.0.0.1"
_PRODUCE = 0  # api key of a produce request (Kafka protocol guide)
_PATIENCE_S = 30.0


@dataclass(slots=True, eq=False)
class _Line:
    """One connection; every request but the last few has its answer."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    asked: int = 0
    answered: int = 0
    held: bool = False


class Proxy:
    """Frames of the Kafka protocol, each way in order; the loop has a thread of its own."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.delay_s = 0.0
        self._port, self._broker_port = port, broker_port
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._open = self._run(self._event())
        self.mend()

    @property
    def address(self) -> str:
        return f"{HOST}:{self._port}"

    @property
    def holding(self) -> int:
        """Connections on which a write waits."""
        return sum(line.held for line in self._lines)

    def hold(self) -> None:
        """Keep back every write, and whatever follows it on its connection."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        """Let through what was kept back; returns when the broker has answered it."""
        self._run(self._release())

    def cut(self) -> None:
        """End every connection and take no new ones."""
        self._run(self._cut())

    def mend(self) -> None:
        """Take connections again."""
        self._run(self._listen())

    def close(self) -> None:
        self._run(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    async def _event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self._port)

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for line in self._lines:
            line.client.transport.abort()
            line.broker.transport.abort()
        while self._lines:
            await asyncio.sleep(0.01)

    async def _release(self) -> None:
        held = [line for line in self._lines if line.held]
        self._open.set()
        while any(line.held or line.asked > line.answered for line in held if line in self._lines):
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, broker = await asyncio.open_connection(HOST, self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, broker)
        self._lines.add(line)
        ways = [asyncio.create_task(self._requests(line, reader)), asyncio.create_task(self._answers(line, answers))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.transport.abort()
        broker.transport.abort()
        self._lines.discard(line)

    async def _requests(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while True:
            frame = await _frame(reader)
            if not self._open.is_set() and struct.unpack_from(">h", frame, 4)[0] == _PRODUCE:
                line.held = True
                await self._open.wait()
            await asyncio.sleep(self.delay_s)
            line.asked += 1
            line.held = False
            line.broker.write(frame)
            await line.broker.drain()

    async def _answers(self, line: _Line, answers: asyncio.StreamReader) -> None:
        while True:
            frame = await _frame(answers)
            line.answered += 1
            await asyncio.sleep(self.delay_s)
            line.client.write(frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])
