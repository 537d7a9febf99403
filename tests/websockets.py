"""WebSockets of the API server for tests: the handshake for a connection to a pod, and the messages (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Mapping
from typing import Any

PROTOCOL = "v4.channel.k8s.io"
BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class RefusedError(Exception):
    """A request that is answered with an error status instead of a connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def handshake(pod: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the answer to a request for a connection to a pod. Raises RefusedError."""
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
    accept = base64.b64encode(hashlib.sha1(f"{key}{_MAGIC}".encode()).digest()).decode()
    answer = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
    return {**answer, "Sec-WebSocket-Protocol": PROTOCOL}


def frame(kind: int, data: bytes) -> bytes:
    """A whole message of a server: it is not masked."""
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    return bytes([0x80 | kind]) + length + data


def read_frame(client: socket.socket) -> tuple[int | None, bytes]:
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
