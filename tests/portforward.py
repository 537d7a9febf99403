"""Port-forwarding of the API server and the kubelet for tests: the port of a pod is one of this machine.

It speaks v4.channel.k8s.io over WebSocket (RFC 6455), and refuses what the real ones refuse.
"""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import struct
from collections.abc import Mapping
from typing import Any

PATH = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<name>[^/]+)/portforward")
PROTOCOL = "v4.channel.k8s.io"

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_DATA, _ERROR = 0, 1
_PIECE = 1 << 15


class RefusedError(Exception):
    """A request that is answered with an error status instead of a connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def check(
    pod: Mapping[str, Any], headers: Mapping[str, str], query: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Return the port that a request is for, and the headers of the answer to it. Raises RefusedError."""
    name = pod["metadata"]["name"]
    if not pod["spec"].get("nodeName"):
        raise RefusedError(400, f"pod {name} does not have a host assigned")
    upgrade = (
        headers.get("Upgrade", "").lower() == "websocket" and "upgrade" in headers.get("Connection", "").lower()
    )
    if not upgrade:
        raise RefusedError(400, "Upgrade request required")
    offered = [each.strip() for each in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    key = headers.get("Sec-WebSocket-Key", "")
    if headers.get("Sec-WebSocket-Version") != "13" or len(base64.b64decode(key)) != 16:
        raise RefusedError(400, "not a WebSocket handshake")
    if PROTOCOL not in offered:
        raise RefusedError(403, f"unable to upgrade: unable to negotiate protocol: client offers {offered}")
    ports = query.get("ports", "")
    if not ports.isdecimal() or not 0 < int(ports) < 65536:
        raise RefusedError(
            400, 'query parameter "ports" is required' if not ports else f"unable to parse {ports!r}"
        )
    accept = base64.b64encode(hashlib.sha1(f"{key}{_MAGIC}".encode()).digest()).decode()
    answer = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
    return int(ports), {**answer, "Sec-WebSocket-Protocol": PROTOCOL}


def serve(client: socket.socket, port: int, *, uid: str) -> None:
    """Connect the client, whose handshake is answered, with a port of 127.0.0.1 until one of them ends."""
    for channel in (_DATA, _ERROR):
        client.sendall(_frame(_BINARY, bytes([channel]) + struct.pack("<H", port)))
    try:
        target = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        reason = f"failed to connect to localhost:{port} inside namespace: {error.strerror}"
        text = f"error forwarding port {port} to pod {uid}, uid : {reason}"
        client.sendall(_frame(_BINARY, bytes([_ERROR]) + text.encode()) + _frame(_CLOSE, struct.pack(">H", 1000)))
        return
    with target:
        _copy(client, target)


def _copy(client: socket.socket, target: socket.socket) -> None:
    while True:
        # TLS may have more bytes than the socket shows.
        pending = bool(client.pending()) if hasattr(client, "pending") else False
        ready = [client] if pending else select.select([client, target], [], [])[0]
        if target in ready:
            data = target.recv(_PIECE)
            if not data:
                client.sendall(_frame(_CLOSE, struct.pack(">H", 1000)))
                return
            client.sendall(_frame(_BINARY, bytes([_DATA]) + data))
        if client in ready and not _from_client(client, target):
            return


def _from_client(client: socket.socket, target: socket.socket) -> bool:
    """Pass on one message of the client; return whether it continues."""
    kind, data = _read_frame(client)
    if kind == _PING:
        client.sendall(_frame(_PONG, data))
    elif kind == _CLOSE:
        client.sendall(_frame(_CLOSE, data[:2]))
        return False
    elif kind == _BINARY:
        assert data[:1] == bytes([_DATA]), "a client writes to the channel of the data alone"
        target.sendall(data[1:])
    elif kind is None:
        return False
    return True


def _frame(kind: int, data: bytes) -> bytes:
    """A whole message of a server: it is not masked."""
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    return bytes([0x80 | kind]) + length + data


def _read_frame(client: socket.socket) -> tuple[int | None, bytes]:
    """A whole message of a client, which has to be masked (RFC 6455, section 5.1); None at the end."""
    head = _read(client, 2)
    if len(head) < 2:
        return None, b""
    assert head[0] & 0x80, "expected messages of one frame"
    assert head[1] & 0x80, "expected a masked frame"
    size = head[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(_read(client, 2 if size == 126 else 8), "big")
    mask = _read(client, 4)
    data = bytes(byte ^ mask[number % 4] for number, byte in enumerate(_read(client, size)))
    return head[0] & 0x0F, data


def _read(client: socket.socket, size: int) -> bytes:
    """So many bytes of the client, fewer at its end."""
    found = b""
    while len(found) < size and (piece := client.recv(size - len(found))):
        found += piece
    return found
