"""`pilot tail`: what happens right now, one line a record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from worker.cli.output import Row, timestamp
from worker.cli.root import effective_settings
from worker.cli.times import Rfc3339

if TYPE_CHECKING:
    from worker.kafka.compacted import Record

RowOf = Callable[["Record"], Row | None]
# Column and its width; the last one takes what it needs.
_DECISIONS = {"decided_at": 24, "user_id": 16, "query_id": 36, "status": 8, "model": 24, "cost": 10, "reason": 0}
_FEEDBACK = {"at": 24, "user_id": 16, "query_id": 36, "status": 8, "model": 24, "reward": 7, "cost": 10, "tokens": 0}
_DEAD_LETTERS = {
    "set_aside_at": 24,
    "code": 17,
    "topic": 16,
    "partition": 9,
    "source_offset": 13,
    "key": 16,
    "message": 0,
}


@click.command()
@click.argument("topic", type=click.Choice(["decisions", "feedback", "dead-letters"]))
@click.option("--since", type=Rfc3339(), help="Begin with records written at this RFC 3339 time. Default: now.")
@click.option("--user", help="Only records of this user.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the fields of the topic.")
def tail(topic: str, since: int | None, user: str | None, limit: int | None, *, as_json: bool) -> None:
    """Follow TOPIC until interrupted; records that are no JSON objects are left out: they become dead letters."""
    settings = effective_settings()
    from worker.kafka import tail as following

    row_of, columns = {
        "decisions": (_event, _DECISIONS),
        "feedback": (_event, _FEEDBACK),
        "dead-letters": (_letter, _DEAD_LETTERS),
    }[topic]
    show = _as_json if as_json else _Table(columns).show
    key = None if user is None else user.encode()

    async def run() -> None:
        shown = 0
        async with aclosing(following.follow(settings, settings.topic(topic), since)) as records:
            async for record in records:
                row = row_of(record) if key in (None, record.key) else None
                if row is not None:
                    show(record, row)
                    shown += 1
                if shown == limit:
                    return

    asyncio.run(run())


def _event(record: Record) -> Row | None:
    from worker.kafka.history import event_of

    return event_of(record)


def _letter(record: Record) -> Row | None:
    from worker.cli.dead_letters import summary
    from worker.kafka.deadletters import decode

    letter = decode(record)
    return None if letter is None else summary(letter)


def _as_json(_: Record, row: Row) -> None:
    import orjson

    print(orjson.dumps(row).decode(), flush=True)


class _Table:
    """Lines in columns of fixed width: what will follow is not known yet."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        self._columns = columns
        self._line(columns)

    def show(self, record: Record, row: Row) -> None:
        cells = {**row, "at": timestamp(record.timestamp), "cost": row.get("cost_usd", row.get("estimated_cost_usd"))}
        if "output_tokens" in row:
            cells["tokens"] = f"{row.get('input_tokens')} in, {row['output_tokens']} out"
        self._line([_cell(cells.get(name)) for name in self._columns])

    def _line(self, cells: Any) -> None:
        widths = self._columns.values()
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    # Ids and labels come from other programs: none of them may move the cursor.
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
