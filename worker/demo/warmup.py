"""The first text of every worker, asked before the clock runs: it loads the encoder, which takes seconds."""

from __future__ import annotations

import asyncio
import json

from worker.demo.wire import Wire
from worker.errors import OperationFailed
from worker.settings import Settings

TIMEOUT_S = 120.0
USER = "warm-up"


async def first_texts(settings: Settings) -> None:
    """Ask one text on every partition, so of every worker, and wait for the decisions.

    Raises:
        OperationFailed: some of them did not come.
    """
    async with Wire(settings) as wire:
        users = await wire.users_by_partition(USER)
        for user in users:
            value = json.dumps({"query_id": user, "user_id": user, "text": "Are you awake?"}).encode()
            await wire.send("queries", user.encode(), value)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await _answered(wire, set(users))
        except TimeoutError:
            raise OperationFailed(f"the workers did not answer a first text within {TIMEOUT_S:.0f} s") from None


async def _answered(wire: Wire, waiting: set[str]) -> None:
    async for record in wire.read("decisions"):
        waiting.discard(json.loads(record.value)["query_id"])
        if not waiting:
            return
