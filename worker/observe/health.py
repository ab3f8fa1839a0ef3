"""The worker's HTTP face: health and pages such as the metrics, read only.

It runs in threads of its own, so that it can still say what is wrong when the event loop stands still.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import NamedTuple, Self, TypedDict

from worker.errors import UsageError

Reasons = Callable[[], list[str]]
Answer = tuple[HTTPStatus, str, bytes]

# The page carries its own style and script, and may speak to this server only; nobody may frame it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", _POLICY),
)

_CLIENT_TIMEOUT_S = 10.0
_PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)


class Verdict(TypedDict):
    """Whether all is well, and if not, why."""

    ok: bool
    reasons: list[str]


class Page(NamedTuple):
    """What a path is answered with; `body` is called for every request, from other threads than the server's owner."""

    kind: str
    body: Callable[[], bytes]


class HealthServer:
    """Serves `/healthz`, `/readyz` and the pages given by path, such as `/metrics`, until closed.

    `live` and `ready` return why the worker is not; an empty list means that it is.
    They are called from other threads than the caller's.

    Raises:
        UsageError: the port is taken or forbidden (names PILOT_HTTP_PORT), or the host is none of this
            machine's (names PILOT_HTTP_HOST).
    """

    def __init__(self, host: str, port: int, *, live: Reasons, ready: Reasons, pages: Mapping[str, Page]) -> None:
        answers: dict[str, Callable[[], Answer]] = {
            **{path: partial(_answer, page) for path, page in pages.items()},
            "/healthz": lambda: _verdict(live),
            "/readyz": lambda: _verdict(ready),
        }
        self._server = _listen(host, port, _handler(answers))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use: the one that was found free where 0 was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingMixIn, TCPServer):
    # Not http.server.HTTPServer: it looks up the host's name when it binds, which can take as long as DNS does.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class _Server6(_Server):
    address_family = socket.AF_INET6


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    kind = _Server6 if ":" in host else _Server
    try:
        return kind((host, port), handler)
    except OSError as error:
        if error.errno in _PORT_ERRORS:
            raise UsageError(f"PILOT_HTTP_PORT={port}: {error.strerror} on {host}; choose another port") from error
        raise UsageError(f"PILOT_HTTP_HOST={host}: {error.strerror}; give an address of this machine") from error


def judge(reasons: Reasons) -> Verdict:
    """A check's answer as the contract has it."""
    try:
        found = reasons()
    except Exception as error:  # noqa: BLE001 - a check that cannot be made is a reason too
        found = [f"the check failed: {error!r}"]
    return {"ok": not found, "reasons": found}


def _verdict(reasons: Reasons) -> Answer:
    verdict = judge(reasons)
    status = HTTPStatus.OK if verdict["ok"] else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps(verdict).encode()


def _answer(page: Page) -> Answer:
    try:
        return HTTPStatus.OK, page.kind, page.body()
    except Exception as error:  # noqa: BLE001 - an answer that says so beats a broken connection
        return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error!r}\n".encode()


def _handler(pages: dict[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "pilot", ""
        timeout = _CLIENT_TIMEOUT_S

        def serve(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self._send(page() if page else _text(HTTPStatus.NOT_FOUND))

        def refuse(self) -> None:
            # The body is not read, so the connection cannot be used again.
            self.close_connection = True
            self._send(_text(HTTPStatus.METHOD_NOT_ALLOWED), ("Allow", "GET, HEAD"), ("Connection", "close"))

        def _send(self, answer: Answer, *headers: tuple[str, str]) -> None:
            status, kind, body = answer
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *_HEADERS, *headers):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            """Scrapes and probes come every few seconds; they are no news."""

    for method in ("GET", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.serve)
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"):
        setattr(Handler, f"do_{method}", Handler.refuse)
    return Handler


def _text(status: HTTPStatus) -> Answer:
    return status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode()
