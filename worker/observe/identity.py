"""How users appear in logs and traces: as they are, under a pseudonym, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from worker.settings import LogUsers

Disguise = Callable[[str], str | None]

_BYTES = 8  # enough to tell a million users apart


def disguise(mode: LogUsers) -> Disguise:
    """What becomes of a user id; None: it is left out.

    A pseudonym is the same everywhere, so that lines can be joined. It is no secret: who
    knows an id can compute it.
    """
    return {"plain": _plain, "hashed": _hashed, "none": _left_out}[mode]


def _plain(user_id: str) -> str | None:
    return user_id


def _hashed(user_id: str) -> str | None:
    return hashlib.blake2b(user_id.encode(), digest_size=_BYTES).hexdigest()


def _left_out(_: str) -> str | None:
    return None
