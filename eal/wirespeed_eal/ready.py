"""Checks by DPDK's telemetry socket whether the ports of the container's DPDK application are up.

This is for a readiness probe, which runs on the CPUs of the application; so it imports nothing else of the package.
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
    """Return why an application in `folder` is not ready; "" if there is one and all are ready."""
    found = False
    # A folder has the name of the application's --file-prefix.
    for prefix in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as telemetry:
            try:
                telemetry.connect(f"{folder}/{prefix}/{_SOCKET}")
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                continue  # an application without telemetry, or one that was killed
            found = True
            telemetry.recv(_LONGEST)  # the greeting
            if wrong := next(_wrong(telemetry), ""):
                return wrong
    return "" if found else f"no DPDK application runs here: expected one that listens on {folder}/*/{_SOCKET}"


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
    """Return the folder with the runtime folders of this user's DPDK applications, by the EAL's own rule."""
    chosen = os.environ.get("RUNTIME_DIRECTORY")
    if not chosen:
        chosen = "/var/run" if os.getuid() == 0 else os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108
    return f"{chosen}/dpdk"
