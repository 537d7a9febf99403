"""Reporting the agent's state to the service manager, if there is one (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send a state such as "READY=1" to the NOTIFY_SOCKET of the environment, if it is set; log a failure."""
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
