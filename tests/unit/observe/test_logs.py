"""Log lines for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from worker.errors import DeadLetterCode
from worker.observe import logs
from worker.observe import records as r


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is global; leave it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def as_json() -> io.StringIO:
    """Where JSON lines go."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    return stream


class TestJson:
    """One JSON object a line."""

    def test_an_event_has_its_fields_level_logger_and_time(self, as_json: io.StringIO) -> None:
        """Machines find what they filter by."""
        logs.get("worker.stream").warning("commit_failed", partition=3)
        (line,) = lines(as_json)
        assert line.pop("timestamp").endswith("Z")
        assert line == {"event": "commit_failed", "partition": 3, "level": "warning", "logger": "worker.stream"}

    def test_libraries_write_the_same_way(self, as_json: io.StringIO) -> None:
        """What faust or aiokafka logs through the standard library is JSON too."""
        logging.getLogger("faust.app").info("ready after %s s", 2)
        (line,) = lines(as_json)
        assert (line["event"], line["logger"], line["level"]) == ("ready after 2 s", "faust.app", "info")

    def test_an_exception_is_one_line(self, as_json: io.StringIO) -> None:
        """A traceback stays inside its record."""
        try:
            {}["no such arm"]
        except KeyError:
            logs.get("worker").exception("failed")
        (line,) = lines(as_json)
        assert "KeyError: 'no such arm'" in line["exception"]

    def test_debug_is_left_out(self, as_json: io.StringIO) -> None:
        """The default level is info, for libraries as well."""
        logs.get("worker").debug("detail")
        logging.getLogger("aiokafka.conn").debug("bytes")
        assert lines(as_json) == []


def test_text_is_for_people() -> None:
    """Without a terminal there are no colours, and event and fields stand on one line."""
    stream = io.StringIO()
    logs.configure("text", stream=stream)
    logs.get("worker").info("assigned", partitions=4)
    (line,) = stream.getvalue().splitlines()
    assert "assigned" in line
    assert "partitions=4" in line
    assert "\x1b" not in line


class TestRateLimit:
    """An outage of the broker must not fill the disk."""

    @pytest.fixture
    def clock(self) -> list[float]:
        """The time, to be moved by the test."""
        return [100.0]

    @pytest.fixture
    def passed(self, clock: list[float]) -> Iterator[tuple[logging.Logger, list[str]]]:
        """An aiokafka logger behind the limit, and what came through."""
        came: list[str] = []

        class Collect(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                came.append(record.getMessage())

        handler = Collect()
        handler.addFilter(logs.RateLimit(("aiokafka",), 30.0, lambda: clock[0]))
        logger = logging.getLogger("aiokafka.test")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        yield logger, came
        logger.removeHandler(handler)
        logger.propagate = True

    def test_like_errors_are_written_once_in_a_while(
        self, passed: tuple[logging.Logger, list[str]], clock: list[float]
    ) -> None:
        """A thousand like lines are one; the next one, later, says how many there were."""
        logger, came = passed
        for node in range(1000):
            logger.error("cannot reach node %s", node)
        assert came == ["cannot reach node 0"]
        clock[0] += 31
        logger.error("cannot reach node %s", 7)
        assert came[1:] == ["cannot reach node 7 (and 999 more like it)"]

    def test_another_message_passes(self, passed: tuple[logging.Logger, list[str]]) -> None:
        """A flood of one message hides no other."""
        logger, came = passed
        for _ in range(5):
            logger.error("no connection")
        logger.error("group coordinator lost")
        logger.info("progress")
        logger.info("progress")
        assert came == ["no connection", "group coordinator lost", "progress", "progress"]

    def test_it_is_part_of_the_set_up(self, as_json: io.StringIO) -> None:
        """After `configure` the Kafka client cannot flood the log."""
        for node in range(100):
            logging.getLogger("aiokafka.conn").error("cannot reach node %s", node)
        assert len(lines(as_json)) == 1

    def test_our_own_lines_pass(self, as_json: io.StringIO) -> None:
        """Only the libraries that flood are limited."""
        for _ in range(3):
            logs.get("worker").error("stopping")
        assert len(lines(as_json)) == 3


class TestObserver:
    """Records that an operator should read about."""

    def test_a_bad_control_record_is_a_warning(self, as_json: io.StringIO) -> None:
        """It says where the record lies and why it was skipped."""
        logs.LogObserver().observe(r.ControlRecordSkipped("models", 12, "input_usd_per_mtok: missing"))
        (line,) = lines(as_json)
        assert (line["event"], line["level"]) == ("control_record_skipped", "warning")
        assert (line["topic"], line["offset"], line["reason"]) == ("models", 12, "input_usd_per_mtok: missing")

    def test_a_dead_letter_says_where_it_came_from(self, as_json: io.StringIO) -> None:
        """Topic, partition, offset and code; never the content."""
        logs.LogObserver().observe(r.DeadLetterSent("queries", 1, 9, DeadLetterCode.INVALID_KEY))
        (line,) = lines(as_json)
        assert {"topic": "queries", "partition": 1, "offset": 9, "code": "invalid_key"}.items() <= line.items()

    def test_lost_records_and_broken_bounds_are_said(self, as_json: io.StringIO) -> None:
        """Both break a promise, so both are more than information."""
        observer = logs.LogObserver()
        observer.observe(r.RecordsLost("queries", 0, 5, 3))
        observer.observe(r.CostAboveBound("gpt-4", 3, 2))
        assert [line["level"] for line in lines(as_json)] == ["error", "warning"]

    def test_the_daily_business_is_silent(self, as_json: io.StringIO) -> None:
        """What happens with every query is counted, not logged."""
        observer = logs.LogObserver()
        observer.observe(r.QueryHandled("routed"))
        observer.observe(r.MoneySettled("gpt-4", 1))
        assert lines(as_json) == []
