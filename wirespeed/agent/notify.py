"""Telling the service manager how the agent is (sd_notify(3)), where there is one."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state such as "READY=1" to NOTIFY_SOCKET, if the environment has it; a failure is logged."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):  # the abstract namespace
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.sendto(state.encode(), path)
        except OSError as error:
            log.warning("NOTIFY_SOCKET %s: %s", path, error)
