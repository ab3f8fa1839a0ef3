"""Points in time given on the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click


class Rfc3339(click.ParamType):
    """A point in time, as milliseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it; the time zone must be said."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no RFC 3339 time such as 2026-01-31T08:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone; end it with Z or an offset", param, ctx)
        return round(moment.timestamp() * 1000)
