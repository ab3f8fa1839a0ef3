"""The worker's HTTP face: metrics and health, read only.

It runs in threads of its own, so that it can still say what is wrong when the event loop stands still.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Self

from worker.errors import UsageError

Reasons = Callable[[], list[str]]
Answer = tuple[HTTPStatus, str, bytes]

_CLIENT_TIMEOUT_S = 10.0
_PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)


class HealthServer:
    """Serves `/metrics`, `/healthz` and `/readyz` until closed.

    `live` and `ready` return why the worker is not; an empty list means that it is.
    They and `metrics` are called from other threads than the caller's.

    Raises:
        UsageError: the port is taken or forbidden (names PILOT_HTTP_PORT), or the host is none of this
            machine's (names PILOT_HTTP_HOST).
    """

    def __init__(
        self, host: str, port: int, *, metrics: Callable[[], bytes], metrics_type: str, live: Reasons, ready: Reasons
    ) -> None:
        pages: dict[str, Callable[[], Answer]] = {
            "/metrics": lambda: (HTTPStatus.OK, metrics_type, metrics()),
            "/healthz": lambda: _verdict(live),
            "/readyz": lambda: _verdict(ready),
        }
        self._server = _listen(host, port, _handler(pages))
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


def _verdict(reasons: Reasons) -> Answer:
    try:
        found = reasons()
    except Exception as error:  # noqa: BLE001 - a check that cannot be made is a reason too
        found = [f"the check failed: {error!r}"]
    status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
    return status, "application/json", json.dumps({"ok": not found, "reasons": found}).encode()


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
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *headers):
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
