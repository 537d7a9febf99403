"""A connection to a port of a pod, through the API server and the kubelet, as `kubectl port-forward` makes it.

The protocol is v4.channel.k8s.io over WebSocket: the first byte of a message is its channel, 0 for the connection's
data and 1 for the kubelet's error. The first message of each channel is the port, in two bytes.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from websocket import ABNF

from wirespeed.kube import websockets
from wirespeed.kube.api import Api

T = TypeVar("T")

_PATH = "/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
_DATA, _ERROR = 0, 1
_PIECE = 1 << 16


class ForwardError(Exception):
    """The kubelet could not connect to the port, or lost the connection; its message."""


class Tunnel(io.RawIOBase):
    """The connection: what is written arrives at the port, and what the port sends is read."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self._greeted: set[int] = set()
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with websockets.lost():
            self._websocket.send_binary(bytes((_DATA,)) + bytes(data))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._ended:
            self._take_message()
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _take_message(self) -> None:
        """Wait for a message. Raises ForwardError, UnreachableError."""
        with websockets.lost():
            kind, frame = self._websocket.recv_data_frame(True)
        if kind == ABNF.OPCODE_CLOSE:
            self._ended = True
        if kind != ABNF.OPCODE_BINARY or not frame.data:
            return
        channel, data = frame.data[0], frame.data[1:]
        if channel not in self._greeted:
            self._greeted.add(channel)  # the port
        elif channel == _DATA:
            self._rest += data
        elif channel == _ERROR and data:
            raise ForwardError(" ".join(data.decode(errors="replace").split()))


class SecureTunnel(io.RawIOBase):
    """TLS inside of a tunnel, which has no socket that Python's ssl could use."""

    def __init__(self, below: io.RawIOBase, context: ssl.SSLContext) -> None:
        self._below = below
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send)
        self._do(self._tls.do_handshake)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._do(lambda: self._tls.write(data))

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._do(lambda: self._tls.read(len(buffer)))
        except ssl.SSLZeroReturnError:
            return 0
        buffer[: len(piece)] = piece
        return len(piece)

    def _do(self, act: Callable[[], T]) -> T:
        """Let TLS act; send what it has to send, and receive what it waits for. Raises ssl.SSLError."""
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                self._send()
                if piece := self._below.read(_PIECE):
                    self._received.write(piece)
                else:
                    self._received.write_eof()
            else:
                self._send()
                return result

    def _send(self) -> None:
        if self._to_send.pending:
            self._below.write(self._to_send.read())


@contextmanager
def tunnel(api: Api, namespace: str, pod: str, port: int, *, timeout: float) -> Iterator[Tunnel]:
    """Yield a connection to a pod's port; no message may take longer than `timeout` seconds.

    The caller's rights are `get` and, since Kubernetes 1.35, `create` on pods/portforward. Raises RefusedError,
    UnreachableError; the tunnel also raises ForwardError.
    """
    path = _PATH.format(namespace=namespace, pod=pod)
    with websockets.opened(api, f"{path}?ports={port}") as websocket:
        websocket.settimeout(timeout)
        yield Tunnel(websocket)
