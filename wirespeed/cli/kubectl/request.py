"""One request to the HTTP API of an agent, through a connection to its pod."""

from __future__ import annotations

import io
import ssl
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from wirespeed.errors import Error, Kind
from wirespeed.kube.api import Api
from wirespeed.kube.portforward import ForwardError, SecureTunnel, tunnel

_PATIENCE = 70.0  # seconds: a little more than the agent takes at most


class Answer(NamedTuple):
    status: int
    body: bytes


class Place(NamedTuple):
    """Where an agent serves."""

    namespace: str
    pod: str
    port: int


def ask(api: Api, place: Place, path: str, token: str) -> Answer:
    """GET a path from the agent, with TLS if it serves that. The token is not sent before that is known.

    Raises RefusedError, UnreachableError and ForwardError of the connection, Error(UNAVAILABLE) for another answer
    than HTTP.
    """
    with tunnel(api, *place, timeout=_PATIENCE) as plain:
        connection = _Connection(plain)
        if _speaks_http(connection):
            return _get(connection, path, token)
    with tunnel(api, *place, timeout=_PATIENCE) as below:
        try:
            return _get(_Connection(SecureTunnel(below, _tls())), path, token)
        except ssl.SSLError as error:
            what = f"its port {place.port} answers neither HTTP nor TLS: {error.reason or error}"
            raise Error(Kind.UNAVAILABLE, what) from error


class _Connection(HTTPConnection):
    """HTTP over a tunnel: it never connects by itself."""

    auto_open = 0

    def __init__(self, stream: io.RawIOBase) -> None:
        super().__init__("localhost")
        self.sock: Any = _Socket(stream)


class _Socket:
    """What http.client uses of a socket."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream
        self._reader = _Reader(stream)

    def sendall(self, data: bytes) -> None:
        self._stream.write(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return self._reader

    def close(self) -> None:
        """Do nothing: the tunnel is closed at the end of its context."""


class _Reader(io.BufferedReader):
    """The answers on one connection: the end of an answer does not close it."""

    def close(self) -> None:
        """Do nothing: the tunnel is closed at the end of its context."""


def _speaks_http(connection: HTTPConnection) -> bool:
    """Whether the port answers HTTP. A TLS server ends the connection, which the kubelet may call an error."""
    try:
        connection.request("HEAD", "/")
        connection.getresponse().read()
    except (HTTPException, ForwardError):
        return False
    return True


def _get(connection: HTTPConnection, path: str, token: str) -> Answer:
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except HTTPException as error:
        what = f"its answer is not complete: {error or type(error).__name__}"
        raise Error(Kind.UNAVAILABLE, what) from error


def _tls() -> ssl.SSLContext:
    """A context that verifies nothing: the API server and the kubelet have led to this pod, and no name is known.

    Whoever could answer in the agent's place has the node, and with it the key of the agent's certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
