"""An HTTP server with bounds: connections, the size and time of requests. GET and HEAD alone, over TLS or not."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, cast

import msgspec

from wirespeed import structs
from wirespeed.agent.address import Address
from wirespeed.errors import Error, Kind, os_errors
from wirespeed.node import WebConfig
from wirespeed.system.files import FileState, file_state

log = logging.getLogger(__name__)

_CONNECTIONS = 32  # open connections, each with a thread; more are closed at once
_REQUEST_SIZE = 32 << 10  # bytes of a request's line and headers; Kubernetes' tokens have 1 to 2 KiB
_REQUEST_TIME = 10.0  # seconds for a client to open TLS and to send a request
_ANSWER_TIME = 60.0  # seconds to make an answer and for the client to take it
_IDLE_TIME = 30.0  # seconds that a connection is kept for the next request
_CHECK_INTERVAL = 1.0  # seconds between checks of these times

# For browsers: the page loads nothing from elsewhere, is not shown inside of others, and leaves nothing behind.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Request(NamedTuple):
    """A GET or HEAD request: `path` with its query as sent, and what it says about its caller."""

    path: str
    host: str
    authorization: str


class Answer(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = {}


@structs.prepared
class _Problem(msgspec.Struct):
    error: str


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error as an answer: {"error": "<message>"}."""
    return Answer(status, msgspec.json.encode(_Problem(message)), headers=headers or {})


Answerer = Callable[[Request], Answer]  # called by any thread; raises nothing that a caller can bring about


class Certificate:
    """The server's certificate and key; read again when a file changes. The constructor raises Error."""

    def __init__(self, config: WebConfig) -> None:
        self._files = (config.tls_certificate, config.tls_key)
        self._lock = threading.Lock()
        self._states = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; the previous one if the files cannot be read."""
        with self._lock:
            if (states := self._look()) != self._states:
                self._states = states
                try:
                    self._context = self._load()
                except Error as error:
                    log.warning("%s; the previous certificate is still used", error.msg)
                else:
                    log.info("the web page's certificate was read again")
            return self._context

    def _look(self) -> tuple[FileState, ...]:
        return tuple(map(file_state, self._files))

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            expected = "a certificate and its key, in PEM"
            what = f"{certificate} and {key}: {reason}"
            raise Error(
                Kind.INVALID_CONFIG, what, where="configuration", key="web.tlsCertificate", expected=expected
            ) from error
        return context


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would prompt for it at the terminal."""
    raise ValueError("the key has a password")


@contextmanager
def serving(address: Address, certificate: Certificate | None, answer: Answerer) -> Iterator[Address]:
    """Answer requests at the address while the body runs; yield it with its port. Raises Error(IO)."""
    with os_errors(f"web page at {address}"):
        server = _Server(address, certificate, answer)
    thread = threading.Thread(target=server.serve_forever, args=(_CHECK_INTERVAL,), name="web", daemon=True)
    thread.start()
    try:
        yield address._replace(port=server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.close_all()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One thread for each connection, which ends when its client, or its time, is at the end."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: Address, certificate: Certificate | None, answer: Answerer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.answer = answer
        self._certificate = certificate
        self._lock = threading.Lock()
        self._until: dict[socket.socket, float] = {}  # the open connections, and when each is closed
        super().__init__(address, BaseHTTPRequestHandler)  # finish_request makes a _Handler

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if has_room := len(self._until) < _CONNECTIONS:
                self._until[request] = time.monotonic() + _REQUEST_TIME
        if has_room:
            super().process_request(request, client_address)
        else:
            log.debug("web: too many connections", extra={"fields": {"client": client_address[0]}})
            self.shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Open TLS in the connection's own thread, where a slow client keeps nobody waiting."""
        if self._certificate is None:
            _Handler(request, client_address, self, request)
            return
        context = self._certificate.context()
        with context.wrap_socket(request.dup(), server_side=True, do_handshake_on_connect=False) as secure:
            secure.do_handshake()
            _Handler(secure, client_address, self, request)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._lock:
            self._until.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 — the base's signature
        log.debug("web: a connection failed", exc_info=True, extra={"fields": {"client": client_address[0]}})

    def give_time(self, connection: socket.socket, seconds: float) -> None:
        with self._lock:
            if connection in self._until:
                self._until[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """End the connections whose time is over. Called by serve_forever."""
        self._end(time.monotonic())

    def close_all(self) -> None:
        self._end(float("inf"))

    def _end(self, now: float) -> None:
        with self._lock:
            for connection in [each for each, until in self._until.items() if until <= now]:
                with contextlib.suppress(OSError):  # the client has closed it
                    connection.shutdown(socket.SHUT_RDWR)  # its thread gets EOF, and ends


class _Handler(BaseHTTPRequestHandler):
    """One connection with its requests, one after another. `connection` is the socket below TLS."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_version, sys_version = "wirespeed", ""

    def __init__(self, request: Any, client_address: Any, server: _Server, plain: socket.socket) -> None:
        self._server, self._plain = server, plain
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        super().setup()
        self._bounded = _Bounded(self.rfile)
        self.rfile = cast(io.BufferedIOBase, self._bounded)

    def handle_one_request(self) -> None:
        self._bounded.left = _REQUEST_SIZE
        try:
            super().handle_one_request()
        except LineTooLong:
            self.close_connection = True
        self._server.give_time(self._plain, _IDLE_TIME)

    def do_GET(self) -> None:
        self._server.give_time(self._plain, _ANSWER_TIME)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.send_error(400, "expected a request without a body")
            return
        request = Request(self.path, self.headers.get("Host", ""), self.headers.get("Authorization", ""))
        self._send(self._server.answer(request))

    do_HEAD = do_GET  # noqa: N815 — the base looks for this name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer in JSON, and close the connection: what follows of a bad request is no request."""
        self.close_connection = True
        if code == 501:  # the base's answer to any other method
            self._send(problem(405, f"expected GET or HEAD, got {self.command}", {"Allow": "GET, HEAD"}))
        else:
            self._send(problem(code, message or "bad request"))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**HEADERS, **answer.headers, **length}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — its name in the base class
        log.debug("web: %s", format % args, extra={"fields": {"client": self.client_address[0]}})


class _Bounded(io.RawIOBase):
    """The lines of requests: `left` bytes of one request may still be read. The base's own bound is 6 MiB."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.left = 0

    def readline(self, size: int | None = -1) -> bytes:
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        line = cast(bytes, self._file.readline(wanted))
        self.left -= len(line)
        if self.left < 0:
            raise LineTooLong("request")
        return line

    def close(self) -> None:
        self._file.close()
        super().close()
