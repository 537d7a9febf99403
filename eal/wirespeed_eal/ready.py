"""Whether the DPDK application of a container is ready: its ports are up, as it tells by its telemetry socket.

For a readiness probe, which takes a processor that forwards: nothing else of this program is loaded for it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

_SOCKET = "dpdk_telemetry.v2"
_LONGEST = 1 << 16  # bytes of an answer


def problem(folder: str) -> str:
    """Why no application whose folder is in `folder` is ready; "" where one is and none is not."""
    told = False
    # A folder has the name of the application's --file-prefix.
    for prefix in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
            try:
                telemetry.connect(f"{folder}/{prefix}/{_SOCKET}")
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                continue  # of an application without telemetry; of one that was killed
            told = True
            telemetry.recv(_LONGEST)  # who it is
            if wrong := next(_wrong(telemetry), ""):
                return wrong
    return "" if told else f"no DPDK application runs here: expected one that listens on {folder}/*/{_SOCKET}"


def _wrong(telemetry: socket.socket) -> Iterator[str]:
    ports = _ask(telemetry, "/ethdev/list")
    if not ports:
        yield "the DPDK application has no port"
    for port in ports:
        if _ask(telemetry, "/ethdev/link_status", str(port))["status"] != "UP":
            yield f"port {port} of the DPDK application is down"


def _ask(telemetry: socket.socket, command: str, *parameters: str) -> Any:
    telemetry.send(",".join([command, *parameters]).encode())
    return json.loads(telemetry.recv(_LONGEST))[command]


def runtime_folder() -> str:
    """Where DPDK's applications of this user have their folders, by the EAL's own rule."""
    chosen = os.environ.get("RUNTIME_DIRECTORY")
    if not chosen:
        chosen = "/var/run" if os.getuid() == 0 else os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108
    return f"{chosen}/dpdk"
