"""Requests to the API server, each with a time limit; credentials may change, and one call ends all requests."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client.rest import RESTClientObject
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ProtocolError

from wirespeed import structs
from wirespeed.errors import Error
from wirespeed.kube.credentials import Credentials, Loaded, authorization
from wirespeed.metrics import Durations

log = logging.getLogger(__name__)

_CONNECTIONS = 1024  # idle connections that are kept open at most; as many as calls can ever run at once
_PIECE = 1 << 16
_PREFIX = re.compile(r"^HTTPS?Connection(Pool)?\(.*?\): ")


T = TypeVar("T")


class Timeouts(NamedTuple):
    """Timeouts in seconds: to connect (to one address), between two reads, and for the answer with all attempts."""

    connect: float
    read: float
    total: float


@structs.prepared
class _Page(msgspec.Struct):
    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None


class RefusedError(Exception):
    """The API server answered with an error `status`; `retry_after` are the seconds of its Retry-After header."""

    attempts = 1  # how often the request was made

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.retry_after = retry_after


class UnreachableError(Exception):
    """No complete answer from the API server in time; the request may have taken effect."""

    attempts = 1  # how often the request was made


class UntrustedError(UnreachableError):
    """The server's certificate could not be verified; the request was not sent."""


class Api:
    """The API server of the files `kubeconfigs`, or of one of their contexts, for any thread, until `close`.

    "" or no file is the in-cluster service account.

    The client library reads the configuration and sets up TLS and proxies; urllib3 makes the requests. The
    constructor raises Error(INVALID_CONFIG); all calls raise RefusedError and UnreachableError.
    """

    def __init__(self, *kubeconfigs: str, context: str = "") -> None:
        self.closed = threading.Event()
        self.retries_stopped = threading.Event()  # once set, failed requests are not retried
        self.credentials = Credentials(*kubeconfigs, context=context)
        self._lock = threading.Lock()
        self._problem = ""
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._client = _Client(self.credentials.load(), self._track)
        self.durations = Durations(
            "wirespeed_kube_request_duration_seconds",
            "Time of a request to the API server until its answer begins; code error is no answer",
            ("method", "code"),
        )

    def get(self, path: str, *, timeouts: Timeouts) -> dict[str, Any]:
        return self._request("GET", path, dict[str, Any], timeouts)

    def page(
        self, path: str, query: Mapping[str, str], *, timeouts: Timeouts
    ) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
        """Return a list or one page of it: its objects, decoded when reached to save memory, and its metadata."""
        page = self._request("GET", path, _Page, timeouts, query=query)
        return map(msgspec.json.decode, page.items or ()), page.metadata

    def patch(self, path: str, body: dict[str, Any], *, timeouts: Timeouts) -> None:
        """Send a JSON merge patch (RFC 7386)."""
        self._request("PATCH", path, dict[str, Any], timeouts, body=json.dumps(body))

    def post(self, path: str, body: dict[str, Any], *, timeouts: Timeouts) -> dict[str, Any]:
        """Create an object; return it. If the body has its name, a repeated request fails with 409."""
        return self._request("POST", path, dict[str, Any], timeouts, body=json.dumps(body))

    def delete(self, path: str, *, timeouts: Timeouts) -> None:
        """Delete an object; what has to end first, such as a pod's containers, ends later."""
        self._request("DELETE", path, dict[str, Any], timeouts)

    def lines(self, path: str, query: Mapping[str, str], *, timeouts: Timeouts, silence: float) -> Generator[bytes]:
        """Yield the lines of a watch as they arrive, until the server ends it; the caller closes the generator.

        `timeouts` applies to its start; `silence` is how many seconds it may stay silent.
        """
        response = self._send("GET", path, timeouts, time.monotonic() + timeouts.total, query=query)
        try:
            if response.connection is not None and response.connection.sock is not None:
                response.connection.sock.settimeout(silence)
            rest = b""
            while piece := response.read1(_PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line for line in lines if line.strip())
        except (HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def loaded(self) -> Loaded:
        """Return the current configuration and TLS context, for a connection that is not a plain request."""
        return self._current().loaded

    def close(self) -> None:
        """Abort the running requests of all threads, and close all connections."""
        self.closed.set()
        self.retries_stopped.set()
        with self._lock:
            self._client.retire()
            connections = list(self._open)
        for connection in connections:
            if isinstance(connection.sock, socket.socket):
                with contextlib.suppress(OSError):  # it is no longer connected
                    # Not SSLSocket's shutdown, which drops the TLS state that a reading thread uses.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def _track(self, connection: HTTPConnection) -> None:
        """Register a connection that is about to be opened or was opened; refuse it after `close`."""
        with self._lock:
            self._open.add(connection)
        if self.closed.is_set():
            raise ConnectionAbortedError("the cluster is being closed")

    def _request(self, method: str, path: str, kind: type[T], timeouts: Timeouts, **more: Any) -> T:
        """Make a request, with the `query` and `body` in `more`; return its decoded answer."""
        end = time.monotonic() + timeouts.total
        response = self._send(method, path, timeouts, end, **more)
        try:
            return msgspec.json.decode(self._body(response, end), type=kind)
        except (HTTPError, OSError, msgspec.DecodeError) as error:
            raise self._unreachable(error) from error

    def _send(
        self,
        method: str,
        path: str,
        timeouts: Timeouts,
        end: float,
        *,
        query: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> Any:
        """Return a successful response, its body unread; retry where that may help, if there is time."""
        url = f"{path}?{urlencode(query)}" if query else path
        resent = reloaded = False
        while True:
            client = self._current()
            try:
                response = self._measured(method, partial(client.request, method, url, body, timeouts, end))
                if 200 <= response.status < 300:
                    return response
                refused = _refused_error(response, self._body(response, end))
            except (ProtocolError, ConnectionError) as error:
                # The server closed an idle connection just as we used it: all our requests may be repeated.
                if resent or self.closed.is_set():
                    raise self._unreachable(error) from error
                resent = True
                continue
            except (HTTPError, OSError, Error) as error:
                raise self._unreachable(error) from error
            if refused.status == 401 and not reloaded:
                reloaded = True
                if self._reload_credentials(client):
                    continue
            elif self._wait_to_retry(refused.retry_after, end):
                continue
            raise refused

    def _measured(self, method: str, request: Callable[[], Any]) -> Any:
        """Make one request, and measure the time until its answer begins; return the response."""
        began, code = time.monotonic(), "error"
        try:
            response = request()
            code = str(response.status)
            return response
        finally:
            self.durations.observe(method, code, seconds=time.monotonic() - began)

    def _wait_to_retry(self, seconds: float | None, end: float) -> bool:
        """Wait a little longer than Retry-After, if that was sent and there is time; return whether to retry."""
        if seconds is None:
            return False
        seconds *= random.uniform(1.0, 1.5)  # noqa: S311 — spreads requests, guards nothing
        return time.monotonic() + seconds < end and not self.retries_stopped.wait(seconds)

    def _body(self, response: Any, end: float) -> bytes:
        """Read the body to its end, after which the connection can be reused."""
        pieces = []
        with response:  # closes the connection if it is not read to the end
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                if time.monotonic() > end:
                    raise UnreachableError(f"{self._client.host}: the answer takes too long")
        return b"".join(pieces)

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, ProtocolError) and len(error.args) == 2:
            error = error.args[1]  # "Connection aborted" and why
        text = _PREFIX.sub("", " ".join(str(error).split()))[:300]
        kind = UntrustedError if "CERTIFICATE_VERIFY_FAILED" in text else UnreachableError
        return kind(f"{self._client.host}: {text or type(error).__name__}")

    def _current(self) -> _Client:
        """Return a client with the current credentials."""
        with self._lock:
            if self.credentials.changed():
                self._load()
            return self._client

    def _reload_credentials(self, refused: _Client) -> bool:
        """Reload the credentials after the server rejected them; return whether there is a new client."""
        with self._lock:
            return self._client is not refused or self._load()

    def _load(self) -> bool:
        """Switch to the current credentials; return whether they could be read."""
        try:
            client = _Client(self.credentials.load(), self._track)
        except Error as error:
            if error.msg != self._problem:
                log.warning("%s; still using the previous credentials", error.msg)
            self._problem = error.msg
            return False
        self._problem = ""
        self._client.retire()
        self._client = client
        return True


class _Client:
    """The connections with one set of credentials; `track` is called with each."""

    def __init__(self, loaded: Loaded, track: Callable[[HTTPConnection], None]) -> None:
        self.loaded = loaded
        self._configuration = configuration = loaded.configuration
        configuration.retries = False  # we retry ourselves
        configuration.keep_alive = True  # so that a watch notices a dead network path
        configuration.connection_pool_maxsize = _CONNECTIONS
        self.host: str = configuration.host
        configuration.proxy_ssl_context = loaded.tls
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
        if loaded.tls is not None:
            # One context for all connections: urllib3 would read the files for each, and verify in strict mode.
            for key in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
                self._pool.connection_pool_kw.pop(key, None)
            self._pool.connection_pool_kw["ssl_context"] = loaded.tls
        self._pool.pool_classes_by_scheme = {
            scheme: _tracking_pool(pool, track) for scheme, pool in self._pool.pool_classes_by_scheme.items()
        }

    def request(self, method: str, url: str, body: str | None, timeouts: Timeouts, end: float) -> Any:
        """Make one request; return the urllib3 response, its body unread."""
        headers = {"Accept": "application/json", "User-Agent": "wirespeed"}
        if header := authorization(self._configuration):
            headers["Authorization"] = header
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        left = max(0.001, end - time.monotonic())
        timeout = urllib3.Timeout(connect=timeouts.connect, read=timeouts.read, total=left)
        return self._pool.request(
            method, self.host + url, body=body, headers=headers, timeout=timeout, preload_content=False
        )

    def retire(self) -> None:
        """Close the idle connections now, and those in use when their request ends."""
        self._pool.clear()


def _tracking_pool(pool: Any, track: Callable[[HTTPConnection], None]) -> Any:
    """Derive a pool class whose connections call `track` before and after they connect."""
    base = pool.ConnectionCls

    def connect(connection: HTTPConnection) -> None:
        track(connection)
        base.connect(connection)
        track(connection)

    return type(pool.__name__, (pool,), {"ConnectionCls": type(base.__name__, (base,), {"connect": connect})})


def _refused_error(response: Any, body: bytes) -> RefusedError:
    """Build the error from a response with a Status object, its message in one line."""
    try:
        message = str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        message = str(response.reason or "")
    after = response.headers.get("Retry-After", "")
    retry_after = float(after) if after.isdecimal() else None
    return RefusedError(int(response.status), " ".join(message.split())[:500], retry_after)
