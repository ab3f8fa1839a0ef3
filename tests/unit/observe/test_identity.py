"""How users appear in logs and traces."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from worker.observe import logs
from worker.observe import records as r
from worker.observe.identity import disguise
from worker.settings import LogUsers


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is global; leave it as it was."""
    names = ("", "worker", "pilot", *logs.FLOODING)
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def logged(users: LogUsers) -> dict[str, str]:
    """What a line about a user says."""
    stream = io.StringIO()
    logs.configure("json", stream=stream, users=users)
    logs.get("worker.x").info("seen", user_id="ann", query_id="q")
    line: dict[str, str] = json.loads(stream.getvalue())
    return line


def test_a_pseudonym_is_the_same_everywhere_and_not_the_name() -> None:
    """Lines of several workers can be joined by it."""
    hashed = disguise("hashed")
    assert hashed("ann") == hashed("ann") != hashed("bob")
    assert "ann" not in (hashed("ann") or "")


def test_logs_show_users_as_asked() -> None:
    """As they are, under the pseudonym, or not at all; the query is named in each case."""
    assert logged("plain")["user_id"] == "ann"
    assert logged("hashed")["user_id"] == disguise("hashed")("ann")
    assert "user_id" not in logged("none")
    assert logged("none")["query_id"] == "q"


def test_libraries_stay_at_info_when_we_are_at_debug() -> None:
    """At debug aiokafka would write requests, with passwords and prompts in them."""
    stream = io.StringIO()
    logs.configure("json", logging.DEBUG, stream)
    logging.getLogger("aiokafka.conn").debug("Request: %s", "secret")
    logging.getLogger("faust.app").debug("secret")
    logs.get("worker.x").debug("ours")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["ours"]


@pytest.mark.parametrize(("level", "lines"), [(logging.DEBUG, 1), (logging.INFO, 0)])
def test_every_decision_is_a_line_at_debug_alone(level: int, lines: int) -> None:
    """With its query and user; at info nothing is done."""
    stream = io.StringIO()
    logs.configure("json", level, stream)
    sent = r.DecisionSent("pacing", "routed", "m", None, query_id="q", user_id="ann")
    logs.LogObserver().observe(sent)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["query_id"], line["user_id"]) for line in told] == [("decision", "q", "ann")] * lines
