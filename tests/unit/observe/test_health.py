"""The HTTP server, asked over real connections."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from worker.errors import UsageError
from worker.observe.health import HealthServer, Page


class Worker:
    """What the server asks about."""

    def __init__(self) -> None:
        self.not_live: list[str] = []
        self.not_ready: list[str] = ["no model known"]


@pytest.fixture
def worker() -> Worker:
    """A live worker that is not ready."""
    return Worker()


@pytest.fixture
def server(worker: Worker) -> Iterator[HealthServer]:
    """A server on a free port."""
    with serve(worker) as server:
        yield server


def broken() -> Any:
    raise LookupError("no state")


def serve(worker: Worker, host: str = "127.0.0.1", port: int = 0) -> HealthServer:
    return HealthServer(
        host,
        port,
        live=lambda: worker.not_live,
        ready=lambda: worker.not_ready,
        pages={"/metrics": Page("text/plain; version=0.0.4", lambda: b"pilot_up 1\n"), "/broken": Page("", broken)},
    )


def ask(server: HealthServer, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type", "")
    finally:
        connection.close()


def test_metrics_are_served_as_text(server: HealthServer) -> None:
    """The body and its type are what the registry gives."""
    assert ask(server, "/metrics") == (200, b"pilot_up 1\n", "text/plain; version=0.0.4")


def test_readiness_says_why_not(server: HealthServer, worker: Worker) -> None:
    """503 with the reasons, and 200 as soon as there are none."""
    status, body, kind = ask(server, "/readyz")
    assert (status, json.loads(body), kind) == (503, {"ok": False, "reasons": ["no model known"]}, "application/json")
    worker.not_ready = []
    status, body, _ = ask(server, "/readyz")
    assert (status, json.loads(body)) == (200, {"ok": True, "reasons": []})


def test_liveness_is_asked_apart_from_readiness(server: HealthServer, worker: Worker) -> None:
    """A worker that is not ready lives; one that stands still does not."""
    assert ask(server, "/healthz")[0] == 200
    worker.not_live = ["no commit for 30 s"]
    status, body, _ = ask(server, "/healthz")
    assert (status, json.loads(body)["reasons"]) == (503, ["no commit for 30 s"])


def test_a_check_that_fails_is_a_reason() -> None:
    """An exception in a check is an answer with 503, not a broken connection."""

    with HealthServer("127.0.0.1", 0, live=broken, ready=broken, pages={}) as server:
        status, body, _ = ask(server, "/healthz")
    assert status == 503
    assert "no state" in json.loads(body)["reasons"][0]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_writing_is_refused(server: HealthServer, method: str) -> None:
    """The server is read only: 405 for every method but GET and HEAD."""
    assert ask(server, "/metrics", method, b"{}" if method != "TRACE" else None)[0] == 405


def test_head_has_no_body(server: HealthServer) -> None:
    """HEAD answers as GET does, and nothing follows the headers on the wire."""
    assert ask(server, "/metrics", "HEAD")[0] == 200
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as answer:
        connection.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = answer.read()
    assert b"Content-Length: 11\r\n" in received
    assert received.endswith(b"\r\n\r\n")


def test_a_page_that_fails_says_so(server: HealthServer) -> None:
    """500 with the error, and the connection stays whole."""
    status, body, _ = ask(server, "/broken")
    assert (status, body) == (500, b"LookupError('no state')\n")


def test_nothing_is_kept_framed_or_fetched_from_elsewhere(server: HealthServer) -> None:
    """Every answer forbids caches and frames, and the page may speak to this server only."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    policy = answer.getheader("Content-Security-Policy", "")
    assert answer.getheader("Cache-Control") == "no-store"
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    connection.close()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/tables", "/../healthz"])
def test_other_paths_do_not_exist(server: HealthServer, path: str) -> None:
    """Nothing else is served, state least of all."""
    assert ask(server, path)[0] == 404


def test_a_query_string_makes_no_difference(server: HealthServer) -> None:
    """Some probes add one."""
    assert ask(server, "/healthz?verbose=1")[0] == 200


def test_one_connection_serves_many_requests(server: HealthServer) -> None:
    """Scrapers keep their connection open."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"pilot_up 1\n"
    connection.close()


def test_a_silent_client_does_not_keep_others_waiting(server: HealthServer) -> None:
    """Each connection has its own thread."""
    with socket.create_connection(("127.0.0.1", server.port)):
        assert ask(server, "/healthz")[0] == 200


class TestStart:
    """What can go wrong when it starts."""

    def test_a_port_in_use_names_its_setting(self, server: HealthServer, worker: Worker) -> None:
        """The user learns which setting to change."""
        with pytest.raises(UsageError, match=f"PILOT_HTTP_PORT={server.port}: Address already in use"):
            serve(worker, port=server.port)

    @pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
    def test_an_address_of_another_machine_names_its_setting(self, worker: Worker, host: str) -> None:
        """A host that cannot be bound is no traceback."""
        with pytest.raises(UsageError, match=f"PILOT_HTTP_HOST={host}"):
            serve(worker, host=host)

    def test_a_closed_server_frees_its_port(self, worker: Worker) -> None:
        """A restart finds its port again at once."""
        first = serve(worker)
        port = first.port
        ask(first, "/healthz")
        first.close()
        with serve(worker, port=port) as second:
            assert ask(second, "/healthz")[0] == 200
