"""Commands in containers for tests, as the API server and the kubelet run them: as processes of the test.

It speaks v4.channel.k8s.io over WebSocket, and refuses what the real ones refuse. As with real runtimes, a command
outlives its client; only its standard input ends.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.websockets import BINARY, CLOSE, PING, PONG, RefusedError, frame, handshake, read_frame

PATH = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<name>[^/]+)/exec")
PATIENCE = 30.0  # seconds for a command whose client has left

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]  # with pipes for standard input, output and error

_OUTPUT, _ERROR, _RESULT = 1, 2, 3
_KNOWN = {"command", "container", "stdin", "stdout", "stderr", "tty"}
_PIECE = 1 << 15


def check(
    pod: Mapping[str, Any], headers: Mapping[str, str], query: Sequence[tuple[str, str]]
) -> tuple[str, list[str], dict[str, str]]:
    """Return the container and the command of a request, and the headers of the answer. Raises RefusedError."""
    name, told = pod["metadata"]["name"], dict(query)
    assert told.keys() <= _KNOWN, "the real one ignores what it does not know"
    if "true" not in (told.get(stream) for stream in ("stdin", "stdout", "stderr")):
        raise RefusedError(400, "you must specify at least 1 of stdin, stdout, stderr")
    command = [text for key, text in query if key == "command"]
    if not command:
        raise RefusedError(400, "you must specify at least one command for the container")
    containers = [each["name"] for each in pod["spec"]["containers"]]
    container = told.get("container") or (containers[0] if len(containers) == 1 else "")
    if not container:
        raise RefusedError(400, f"a container name must be specified for pod {name}, choose one of: {containers}")
    if container not in containers:
        raise RefusedError(400, f"container {container} is not valid for pod {name}")
    if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        raise RefusedError(400, "cannot exec into a container in a completed pod; current phase is Failed")
    return container, command, handshake(pod, headers)


def serve(client: socket.socket, command: list[str], start: Start) -> None:
    """Run the command for the client, whose handshake is answered, until the command ends."""
    client.sendall(_message(_OUTPUT, b""))  # says that the connection is there
    try:
        process = start(command)
    except FileNotFoundError as error:
        message = f"Internal error occurred: error executing command in container: {error}"
        failed = {"status": "Failure", "message": message, "reason": "InternalError", "code": 500}
        client.sendall(_message(_RESULT, _json(failed)) + frame(CLOSE, struct.pack(">H", 1000)))
        return
    with process:
        if _copy(client, process):
            client.sendall(_message(_RESULT, _result(process.wait())) + frame(CLOSE, struct.pack(">H", 1000)))
            return
        try:
            process.communicate(timeout=PATIENCE)  # ends its standard input
        finally:
            process.kill()


def _copy(client: socket.socket, process: subprocess.Popen[bytes]) -> bool:
    """Pass on what the command writes, until it ends; return whether the client has stayed."""
    assert process.stdout
    assert process.stderr
    channels: dict[Any, int] = {process.stdout: _OUTPUT, process.stderr: _ERROR}
    while channels:
        # TLS may have more bytes than the socket shows.
        pending = bool(client.pending()) if hasattr(client, "pending") else False
        ready = [client] if pending else select.select([client, *channels], [], [])[0]
        for each in ready:
            if each is client:
                if not _from_client(client):
                    return False
            elif data := os.read(each.fileno(), _PIECE):
                client.sendall(_message(channels[each], data))
            else:
                del channels[each]
    return True


def _from_client(client: socket.socket) -> bool:
    """Take one message of the client; return whether it continues."""
    kind, data = read_frame(client)
    if kind == PING:
        client.sendall(frame(PONG, data))
    elif kind == CLOSE:
        client.sendall(frame(CLOSE, data[:2]))
        return False
    elif kind == BINARY:
        raise AssertionError(f"no client of ours writes to a command: {data!r}")
    return kind is not None


def _result(status: int) -> bytes:
    if status == 0:
        return _json({"metadata": {}, "status": "Success"})
    code = status if status > 0 else 128 - status
    return _json(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit status {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _message(channel: int, data: bytes) -> bytes:
    return frame(BINARY, bytes([channel]) + data)
