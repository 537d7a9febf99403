"""Requests to the API server: each in a bounded time, with credentials that may change, all ended by one call."""

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
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client.rest import RESTClientObject
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ProtocolError

from wirespeed import structs
from wirespeed.cni.errors import CniError
from wirespeed.kube.credentials import Credentials, Loaded, authorization

log = logging.getLogger(__name__)

_CONNECTIONS = 1024  # kept open at most, when idle; as many as calls may ever run at once
_PIECE = 1 << 16
_PREFIX = re.compile(r"^HTTPS?Connection(Pool)?\(.*?\): ")


T = TypeVar("T")


class Patience(NamedTuple):
    """Seconds: to connect (to one address), between two reads, and for the whole answer, further attempts too."""

    connect: float
    read: float
    total: float


@structs.prepared
class _Page(msgspec.Struct):
    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None


class RefusedError(Exception):
    """The API server answered with a `status` that is no success; `retry_after` is the seconds it asks for."""

    attempts = 1  # how often it was asked

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.retry_after = retry_after


class UnreachableError(Exception):
    """No whole answer from the API server in time; what was asked may have been done."""

    attempts = 1  # how often it was asked


class UntrustedError(UnreachableError):
    """The certificate of what answers there does not verify; nothing was asked of it."""


class Api:
    """The API server of `kubeconfig` ("": the in-cluster service account), from any thread, until `close`.

    The client library reads the configuration and sets up TLS and proxies; requests are urllib3's, JSON is
    msgspec's. Raises CniError(INVALID_CONFIG) when made; all calls raise RefusedError and UnreachableError.
    """

    def __init__(self, kubeconfig: str) -> None:
        self.closed = threading.Event()
        self.ending = threading.Event()  # what fails from here on is not asked again
        self.credentials = Credentials(kubeconfig)
        self._lock = threading.Lock()
        self._problem = ""
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._client = _Client(self.credentials.load(), self._track)

    def get(self, path: str, *, patience: Patience) -> dict[str, Any]:
        """The object at `path`."""
        end = time.monotonic() + patience.total
        return self._decode(self._respond("GET", path, patience, end), end, dict[str, Any])

    def page(
        self, path: str, query: Mapping[str, str], *, patience: Patience
    ) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
        """A list, or a part of it: its objects, and its metadata.

        Each object is made when it is its turn: all at once they would take many times the memory of the answer.
        """
        end = time.monotonic() + patience.total
        page = self._decode(self._respond("GET", path, patience, end, query=query), end, _Page)
        return map(msgspec.json.decode, page.items or ()), page.metadata

    def patch(self, path: str, body: dict[str, Any], *, patience: Patience) -> None:
        """A JSON merge patch (RFC 7386)."""
        end = time.monotonic() + patience.total
        self._decode(self._respond("PATCH", path, patience, end, body=json.dumps(body)), end, dict[str, Any])

    def post(self, path: str, body: dict[str, Any], *, patience: Patience) -> None:
        """Make an object, whose name the body has: a request that is repeated finds it there (409)."""
        end = time.monotonic() + patience.total
        self._decode(self._respond("POST", path, patience, end, body=json.dumps(body)), end, dict[str, Any])

    def lines(self, path: str, query: Mapping[str, str], *, patience: Patience, silence: float) -> Generator[bytes]:
        """The lines of a watch as they come, until the server ends it; to be closed.

        `patience` is for its beginning, `silence` the seconds in which nothing may come.
        """
        response = self._respond("GET", path, patience, time.monotonic() + patience.total, query=query)
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

    def close(self) -> None:
        """End what runs, in any thread, and close all connections."""
        self.closed.set()
        self.ending.set()
        with self._lock:
            self._client.retire()
            connections = list(self._open)
        for connection in connections:
            if isinstance(connection.sock, socket.socket):
                with contextlib.suppress(OSError):  # it is not connected any more
                    # Not SSLSocket's, which takes the TLS state away from the thread that reads.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def _track(self, connection: HTTPConnection) -> None:
        """A connection is about to be made, or was made."""
        with self._lock:
            self._open.add(connection)
        if self.closed.is_set():
            raise ConnectionAbortedError("the cluster is being closed")

    def _respond(
        self,
        method: str,
        path: str,
        patience: Patience,
        end: float,
        *,
        query: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> Any:
        """A successful answer, its body unread; asked for again where that helps and the time is there."""
        url = f"{path}?{urlencode(query)}" if query else path
        resent = renewed = False
        while True:
            client = self._current()
            try:
                response = client.request(method, url, body, patience, end)
                if 200 <= response.status < 300:
                    return response
                refused = _refused(response, self._body(response, end))
            except (ProtocolError, ConnectionError) as error:
                # The server closed an idle connection as we used it: all our requests may be repeated.
                if resent or self.closed.is_set():
                    raise self._unreachable(error) from error
                resent = True
                continue
            except (HTTPError, OSError, CniError) as error:
                raise self._unreachable(error) from error
            if refused.status == 401 and not renewed:
                renewed = True
                if self._renew(client):
                    continue
            elif self._may_wait(refused.retry_after, end):
                continue
            raise refused

    def _may_wait(self, seconds: float | None, end: float) -> bool:
        """Wait as the server asks for (429, 503) and some more, if it does and the time is there."""
        if seconds is None:
            return False
        seconds *= random.uniform(1.0, 1.5)  # noqa: S311 — spreads requests, guards nothing
        return time.monotonic() + seconds < end and not self.ending.wait(seconds)

    def _body(self, response: Any, end: float) -> bytes:
        """Read to the end, after which its connection may serve again."""
        pieces = []
        with response:  # closed if it is not read to the end
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                if time.monotonic() > end:
                    raise UnreachableError(f"{self._client.host}: the answer takes too long")
        return b"".join(pieces)

    def _decode(self, response: Any, end: float, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._body(response, end), type=kind)
        except (HTTPError, OSError, msgspec.DecodeError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, ProtocolError) and len(error.args) == 2:
            error = error.args[1]  # "Connection aborted" and why
        text = _PREFIX.sub("", " ".join(str(error).split()))[:300]
        kind = UntrustedError if "CERTIFICATE_VERIFY_FAILED" in text else UnreachableError
        return kind(f"{self._client.host}: {text or type(error).__name__}")

    def _current(self) -> _Client:
        """With the credentials as they are now."""
        with self._lock:
            if self.credentials.changed():
                self._load()
            return self._client

    def _renew(self, refused: _Client) -> bool:
        """Load the credentials again, for the server does not take these; whether it may take those now."""
        with self._lock:
            return self._client is not refused or self._load()

    def _load(self) -> bool:
        """Go on with the credentials that are there now, if they can be read."""
        try:
            client = _Client(self.credentials.load(), self._track)
        except CniError as error:
            if error.msg != self._problem:
                log.warning("%s; going on with those from before", error.msg)
            self._problem = error.msg
            return False
        self._problem = ""
        self._client.retire()
        self._client = client
        return True


class _Client:
    """The connections that are made with one set of credentials; `track` is told of each."""

    def __init__(self, loaded: Loaded, track: Callable[[HTTPConnection], None]) -> None:
        configuration = loaded.configuration
        configuration.retries = False  # each attempt is ours
        configuration.keep_alive = True  # a watch over a dead path is noticed
        configuration.connection_pool_maxsize = _CONNECTIONS
        self.host: str = configuration.host
        self._configuration = configuration
        configuration.proxy_ssl_context = loaded.tls
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
        if loaded.tls is not None:
            # One for all connections, its files read once: urllib3 would read them for each, and be strict.
            for key in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
                self._pool.connection_pool_kw.pop(key, None)
            self._pool.connection_pool_kw["ssl_context"] = loaded.tls
        self._pool.pool_classes_by_scheme = {
            scheme: _tracked(pool, track) for scheme, pool in self._pool.pool_classes_by_scheme.items()
        }

    def request(self, method: str, url: str, body: str | None, patience: Patience, end: float) -> Any:
        """The urllib3 response, its body unread."""
        headers = {"Accept": "application/json", "User-Agent": "wirespeed"}
        if header := authorization(self._configuration):
            headers["Authorization"] = header
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        left = max(0.001, end - time.monotonic())
        timeout = urllib3.Timeout(connect=patience.connect, read=patience.read, total=left)
        return self._pool.request(
            method, self.host + url, body=body, headers=headers, timeout=timeout, preload_content=False
        )

    def retire(self) -> None:
        """Close what is idle, and what runs when it has ended."""
        self._pool.clear()


def _tracked(pool: Any, track: Callable[[HTTPConnection], None]) -> Any:
    """The class of pools, with connections that tell of themselves before and after they connect."""
    base = pool.ConnectionCls

    def connect(connection: HTTPConnection) -> None:
        track(connection)
        base.connect(connection)
        track(connection)

    return type(pool.__name__, (pool,), {"ConnectionCls": type(base.__name__, (base,), {"connect": connect})})


def _refused(response: Any, body: bytes) -> RefusedError:
    """What a Status object says, in one line."""
    try:
        message = str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        message = str(response.reason or "")
    after = response.headers.get("Retry-After", "")
    return RefusedError(
        int(response.status), " ".join(message.split())[:500], float(after) if after.isdecimal() else None
    )
