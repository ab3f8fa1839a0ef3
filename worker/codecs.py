"""Codecs: how the values and keys of the changelogs become bytes and come back, each with a version.

A pending record is a JSON head, then decision and context as they are; a spend
record is a JSON array. Shards have their own packing (`worker.core.shard`).
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import orjson

from worker import compact_json
from worker.core.fence import Event, Fence, Source
from worker.core.ledger import Spend
from worker.core.lifecycle import Choice, Money, Parked, Pending, Refused, Reward, Tokens
from worker.core.verdict import History
from worker.errors import DeadLetterCode

_HEADER = struct.Struct("<BIi")  # version, bytes of the head, bytes of the decision or -1
_VERSION = 1
_SEPARATOR = "\0"  # ids contain no control characters


class CodecError(ValueError):
    """A stored record that this version cannot read. Operator action: upgrade the worker."""


def pack_pending_key(user_id: str, query_id: str) -> bytes:
    """The key of a pending record."""
    return f"{user_id}{_SEPARATOR}{query_id}".encode()


def unpack_pending_key(key: bytes) -> tuple[str, str]:
    """User and query id of a pending record."""
    user_id, query_id = key.decode().split(_SEPARATOR)
    return user_id, query_id


def pack_pending(pending: Pending, window_s: int = 0) -> bytes:
    """The value of the changelog record; `window_s` is the present length of budget windows."""
    head = orjson.dumps(
        {
            "o": pending.offset,
            "w": pending.window,
            "l": pending.window_s or window_s,
            "c": _pack_choice(pending.choice),
            "m": _pack_money(pending.money),
            "r": _pack_part(pending.reward),
            "t": _pack_part(pending.tokens),
            "g": _pack_part(pending.guess),
            "k": [_pack_parked(record) for record in pending.parked],
            "x": [[_pack_parked(entry.record), entry.code, entry.message] for entry in pending.refused],
            "f": pending.overflow,
            "d": pending.denied,
            "a": pending.changed_ms,
        }
    )
    decision = pending.decision
    context = b"" if pending.choice is None else pending.choice.context.astype(np.float32).tobytes()
    lengths = _HEADER.pack(_VERSION, len(head), -1 if decision is None else len(decision))
    return b"".join((lengths, head, decision or b"", context))


def unpack_pending(value: bytes) -> Pending:
    """Read what `pack` wrote.

    Raises:
        CodecError: another version.
    """
    version, head_size, decision_size = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise CodecError(f"pending record of version {version}, this worker reads {_VERSION}")
    body = _HEADER.size + head_size
    head = orjson.loads(value[_HEADER.size : body])
    tail = body + max(decision_size, 0)
    return Pending(
        decision=None if decision_size < 0 else value[body:tail],
        offset=head["o"],
        window=head["w"],
        window_s=head.get("l", 0),
        choice=_unpack_choice(head["c"], value[tail:]),
        money=_unpack_money(head["m"]),
        reward=None if head["r"] is None else Reward(*_unpack_part(head["r"])),
        tokens=None if head["t"] is None else Tokens(*_unpack_part(head["t"])),
        guess=None if head["g"] is None else Tokens(*_unpack_part(head["g"])),
        parked=tuple(_unpack_parked(entry) for entry in head["k"]),
        refused=tuple(Refused(_unpack_parked(entry), DeadLetterCode(code), text) for entry, code, text in head["x"]),
        overflow=None if head["f"] is None else tuple(head["f"]),
        denied=tuple(head["d"]),
        changed_ms=head["a"],
    )


def pack_spend(spend: Spend) -> bytes:
    """The value of a spend changelog record."""
    history, fence = spend.history, spend.fence
    fields = (spend.settled, spend.reserved, spend.expected, spend.queries, history.queries, history.exposure)
    return compact_json.dumps((_VERSION, *fields, fence.query, fence.feedback))


def unpack_spend(value: bytes) -> Spend:
    """Read what `pack_spend` wrote.

    Raises:
        CodecError: another version.
    """
    version, *fields = orjson.loads(value)
    if version != _VERSION:
        raise CodecError(f"spend record of version {version}, this worker reads {_VERSION}")
    settled, reserved, expected, queries, counted, exposure, query, feedback = fields
    return Spend(settled, reserved, expected, queries, History(counted, exposure), Fence(query, feedback))


def unpack_spend_key(key: bytes) -> tuple[str, int]:
    """User and window start (seconds since the epoch) of a spend changelog record.

    Faust writes windowed keys as `[key, [start, end]]`.
    """
    user_id, (start, _) = orjson.loads(key)
    return user_id, round(start)


def unpack_window_length(key: bytes) -> int:
    """Length in seconds of the window of a spend changelog record; Faust's windows end .1 s early."""
    _, (start, end) = orjson.loads(key)
    length: int = round(end - start)
    return length


def _pack_choice(choice: Choice | None) -> list[Any] | None:
    if choice is None:
        return None
    prices = (choice.input_usd_per_mtok, choice.output_usd_per_mtok, choice.request_usd)
    money = (choice.reservation, choice.expected, choice.predicted)
    return [choice.model, choice.fingerprint, *money, choice.input_tokens, *prices, choice.bounded]


def _unpack_choice(fields: list[Any] | None, context: bytes) -> Choice | None:
    if fields is None:
        return None
    model, fingerprint, *numbers = fields
    vector = np.frombuffer(context, dtype=np.float32).astype(np.float64)
    return Choice(model, vector, fingerprint, *numbers)


def _pack_part(part: Reward | Tokens | None) -> list[Any] | None:
    if part is None:
        return None
    amount = part.value if isinstance(part, Reward) else part.number
    return [amount, part.event.source, part.event.offset, part.model]


def _unpack_part(fields: list[Any]) -> tuple[Any, Event, str]:
    amount, source, offset, model = fields
    return amount, Event(Source(source), offset), model


def _pack_money(money: Money | None) -> list[Any] | None:
    if money is None:
        return None
    return [money.nanos, money.event.source, money.event.offset, money.model, money.failed]


def _unpack_money(fields: list[Any] | None) -> Money | None:
    if fields is None:
        return None
    nanos, source, offset, model, failed = fields
    return Money(nanos, Event(Source(source), offset), model, failed)


def _pack_parked(record: Parked) -> list[Any]:
    headers = [[name, _text(value)] for name, value in record.headers]
    return [record.offset, record.timestamp, _text(record.key), _text(record.value), headers]


def _unpack_parked(fields: list[Any]) -> Parked:
    offset, timestamp, key, value, headers = fields
    kept = tuple((name, _bytes(content)) for name, content in headers)
    return Parked(offset, timestamp, _bytes(key), _bytes(value) or b"", kept)


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else b64decode(value)
