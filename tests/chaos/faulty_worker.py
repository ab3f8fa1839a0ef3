"""A real worker that can be told by a signal to die inside the pipeline: `python -m tests.chaos.faulty_worker`.

SIGUSR1: die when a batch's `pending` is acknowledged and nothing else of it was sent.
SIGUSR2: die when some of what follows is acknowledged and the rest never left. Without a
signal it is `pilot worker`, except that texts are hashed instead of encoded, as slowly:
loading the weights takes longer than most faults.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from worker.encode.base import Floats
from worker.encode.sentence import SentenceEncoder
from worker.settings import load
from worker.stream.delivery import KafkaDelivery, Outgoing, Sent
from worker.stream.run import run

DIED_BETWEEN, DIED_WITHIN = 201, 202
BETWEEN, WITHIN = signal.SIGUSR1, signal.SIGUSR2
_SHARE_SENT, _SHARE_LAST = 0.5, 0.3
_LAST_S = 2.0  # after the first record that is held back: none may follow it, and then nothing else ends the process
_ENCODING_S = 0.01


class Saboteur:
    """Stands before the delivery port and ends the process at the chosen point of the pipeline."""

    def __init__(self, arbiter: str) -> None:
        self._arbiter = arbiter
        self._armed: int | None = None
        self._met: set[tuple[str, int]] = set()
        self._original = KafkaDelivery.send

    def arm(self, signum: int, _: object) -> None:
        self._armed = signum

    async def send(self, port: KafkaDelivery, topic: str, partition: int, records: Sequence[Outgoing]) -> list[Sent]:
        if self._armed is None or topic == self._arbiter:
            return await self._original(port, topic, partition, records)
        if self._armed == BETWEEN:
            os._exit(DIED_BETWEEN)
        # A place that comes again belongs to the next batch, which must not overtake what never left.
        if (topic, partition) in self._met:
            os._exit(DIED_WITHIN)
        if not self._met:
            asyncio.get_running_loop().call_later(_LAST_S, os._exit, DIED_WITHIN)
        self._met.add((topic, partition))
        if random.random() < _SHARE_SENT:
            for sent in await self._original(port, topic, partition, records):
                await sent.acknowledged
        if random.random() < _SHARE_LAST:
            os._exit(DIED_WITHIN)
        return [Sent(asyncio.get_running_loop().create_future(), len(records))]


def _hashed(encoder: SentenceEncoder, texts: Sequence[str]) -> Floats:
    time.sleep(_ENCODING_S * len(texts))
    vectors = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=encoder.dimension) for text in texts]
    return np.asarray(vectors, np.float32)


def main() -> None:
    settings, _ = load()
    saboteur = Saboteur(settings.changelog("pending"))

    async def send(port: Any, topic: str, partition: int, records: Sequence[Outgoing]) -> list[Sent]:
        return await saboteur.send(port, topic, partition, records)

    KafkaDelivery.send = send
    SentenceEncoder.encode = _hashed
    for signum in (BETWEEN, WITHIN):
        signal.signal(signum, saboteur.arm)
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)
    run(settings)


if __name__ == "__main__":
    main()
