"""Queries, choices and feedback for tests of the state core."""

from __future__ import annotations

import numpy as np

from worker.core.arms import Arm
from worker.core.fence import Event, Source
from worker.core.lifecycle import Choice, Feedback, Parked, Pending, decide

FINGERPRINT = "fp"
CONTEXT = np.array([0.6, 0.8, 1.0], dtype=np.float32).astype(np.float64)
RESERVATION, EXPECTED, PREDICTED = 40_000_000, 20_000_000, 15_000_000
SMALL, LARGE = Arm("small", 1.0, 10.0), Arm("large", 10.0, 100.0)
WINDOW = 1_700_006_400


def query(offset: int = 5) -> Event:
    return Event(Source.QUERY, offset)


def feedback(offset: int = 7) -> Event:
    return Event(Source.FEEDBACK, offset)


def lookup(model: str) -> Arm | None:
    return {"small": SMALL, "large": LARGE}.get(model)


def choice(model: str = "small", **changes: object) -> Choice:
    fields = {
        "context": CONTEXT,
        "fingerprint": FINGERPRINT,
        "reservation": RESERVATION,
        "expected": EXPECTED,
        "predicted": PREDICTED,
        "input_tokens": 100,
        "input_usd_per_mtok": 1.0,
        "output_usd_per_mtok": 10.0,
        "request_usd": 0.0,
        "bounded": False,
    }
    return Choice(model=model, **{**fields, **changes})  # type: ignore[arg-type]


def parked(offset: int, value: bytes = b"{}", timestamp: int = 1_000) -> Parked:
    return Parked(offset, timestamp, b"user", value, (("trace", b"\x00\xff"), ("empty", None)))


def decided(
    chosen: Choice | None = None,
    *,
    rejected: bool = False,
    early: dict[int, Feedback] | None = None,
    offset: int = 5,
    timestamp: int = 2_000,
) -> Pending:
    """A decided query, with feedback that came before it by offset."""
    waiting = {str(number).encode(): said for number, said in (early or {}).items()}
    before = Pending(parked=tuple(parked(int(value), value) for value in waiting))
    after, _ = decide(
        before,
        decision=b'{"status":"routed"}',
        event=query(offset),
        window=WINDOW,
        choice=None if rejected else chosen or choice(),
        timestamp=timestamp,
        parse=waiting.__getitem__,
        lookup=lookup,
    )
    return after
