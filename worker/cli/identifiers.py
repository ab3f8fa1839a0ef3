"""Ids given on the command line."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from worker.errors import UsageError
from worker.events import Identifier

_ADAPTER: TypeAdapter[str] = TypeAdapter(Identifier)


def require_identifier(name: str, value: str) -> str:
    """The value, if other programs can use it as an id.

    Raises:
        UsageError: empty, too long, or control characters.
    """
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{name} {value!r}: {error.errors()[0]['msg']}") from None
