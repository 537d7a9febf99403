"""Port-forwarding of the API server and the kubelet for tests: the port of a pod is one of this machine.

It speaks v4.channel.k8s.io over WebSocket (RFC 6455), and refuses what the real ones refuse.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Mapping
from typing import Any

from tests.websockets import BINARY, CLOSE, PING, PONG, RefusedError, frame, handshake, read_frame

PATH = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<name>[^/]+)/portforward")

_DATA, _ERROR = 0, 1
_PIECE = 1 << 15


def check(
    pod: Mapping[str, Any], headers: Mapping[str, str], query: Mapping[str, str]
) -> tuple[int, dict[str, str]]:
    """Return the port that a request is for, and the headers of the answer to it. Raises RefusedError."""
    answer = handshake(pod, headers)
    ports = query.get("ports", "")
    if not ports.isdecimal() or not 0 < int(ports) < 65536:
        raise RefusedError(
            400, 'query parameter "ports" is required' if not ports else f"unable to parse {ports!r}"
        )
    return int(ports), answer


def serve(client: socket.socket, port: int, *, uid: str) -> None:
    """Connect the client, whose handshake is answered, with a port of 127.0.0.1 until one of them ends."""
    for channel in (_DATA, _ERROR):
        client.sendall(frame(BINARY, bytes([channel]) + struct.pack("<H", port)))
    try:
        target = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        reason = f"failed to connect to localhost:{port} inside namespace: {error.strerror}"
        text = f"error forwarding port {port} to pod {uid}, uid : {reason}"
        client.sendall(frame(BINARY, bytes([_ERROR]) + text.encode()) + frame(CLOSE, struct.pack(">H", 1000)))
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
                client.sendall(frame(CLOSE, struct.pack(">H", 1000)))
                return
            client.sendall(frame(BINARY, bytes([_DATA]) + data))
        if client in ready and not _from_client(client, target):
            return


def _from_client(client: socket.socket, target: socket.socket) -> bool:
    """Pass on one message of the client; return whether it continues."""
    kind, data = read_frame(client)
    if kind == PING:
        client.sendall(frame(PONG, data))
    elif kind == CLOSE:
        client.sendall(frame(CLOSE, data[:2]))
        return False
    elif kind == BINARY:
        assert data[:1] == bytes([_DATA]), "a client writes to the channel of the data alone"
        target.sendall(data[1:])
    elif kind is None:
        return False
    return True
