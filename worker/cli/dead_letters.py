"""`pilot dead-letters`: see what was set aside and why, and put it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from worker.cli.output import Row, json_option, show, timestamp
from worker.cli.root import effective_settings
from worker.cli.times import Rfc3339
from worker.errors import DeadLetterCode

if TYPE_CHECKING:
    from worker.kafka.deadletters import DeadLetter, Selection

_HEADINGS = {
    "offset": "offset",
    "set_aside_at": "set aside",
    "code": "code",
    "topic": "from",
    "partition": "partition",
    "source_offset": "at offset",
    "key": "key",
    "message": "message",
}


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    code = click.option("--code", type=click.Choice([code.value for code in DeadLetterCode]), help="Only this code.")
    since = click.option("--since", type=Rfc3339(), help="Only those set aside at or after this RFC 3339 time.")
    return code(since(command))


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that could not be processed."""


@dead_letters.command("list")
@_selecting
@json_option
def list_letters(code: str | None, since: int | None, *, as_json: bool) -> None:
    """List them, one line each."""
    rows: list[Row] = [summary(letter) for letter in _read(code, since, ())]
    show(rows, _HEADINGS, as_json=as_json, empty="no dead letters")


@dead_letters.command("show")
@click.argument("offsets", type=click.IntRange(0), nargs=-1)
@_selecting
def show_letters(offsets: tuple[int, ...], code: str | None, since: int | None) -> None:
    """Show the records at OFFSETS of the dead-letter topic in full; without OFFSETS, all."""
    for letter in _read(code, since, offsets):
        for name, value in summary(letter).items():
            print(f"{name}: {value}")
        print(f"sent_at: {timestamp(letter.source_timestamp)}")
        for name, content in letter.headers:
            print(f"header {name}: {_text(content)}")
        print(f"value: {_text(letter.value)}\n")


@dead_letters.command()
@_selecting
@click.option("--dry-run", is_flag=True, help="Only say what would be put back.")
def replay(code: str | None, since: int | None, *, dry_run: bool) -> None:
    """Put the original records back on their source topics, each once however often this is repeated."""
    settings = effective_settings()
    from worker.kafka import replay as replaying
    from worker.kafka.deadletters import Selection

    done = asyncio.run(replaying.replay(settings, Selection(code, since), dry_run=dry_run))
    for letter in done.replayed:
        print(f"{letter.offset}: {letter.code}: {'would go' if dry_run else 'went'} back to {letter.topic}")
    print(f"{len(done.replayed)} {'to put back' if dry_run else 'put back'}, {done.earlier} were put back earlier")


def _read(code: str | None, since: int | None, offsets: tuple[int, ...]) -> list[DeadLetter]:
    settings = effective_settings()
    from worker.kafka import deadletters

    letters: list[DeadLetter] = []
    selection: Selection = deadletters.Selection(code, since, frozenset(offsets))
    asyncio.run(deadletters.read(settings, selection, letters.append))
    return letters


def summary(letter: DeadLetter) -> Row:
    """One dead letter as the lists show it, without its value."""
    return {
        "offset": letter.offset,
        "set_aside_at": timestamp(letter.timestamp),
        "code": letter.code,
        "topic": letter.topic,
        "partition": letter.partition,
        "source_offset": letter.source_offset,
        "key": _text(letter.key),
        "message": letter.message,
    }


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="backslashreplace")
