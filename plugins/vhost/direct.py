"""memif from pod to pod, without a switch: both applications use a socket in a shared folder.

Unless configured, the first pod is the master.
"""

from __future__ import annotations

import hashlib
from typing import Any

from wirespeed.plugins.vhost.engine import Found, Port


class Direct:
    """The engine for links without a switch (`wirespeed.plugins.vhost.engine.Engine`): it has nothing to do."""

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:  # noqa: ARG002 — nothing to do
        return {}

    def remove(self, port: Found, *, deadline: float) -> None:
        """Nothing to do."""

    def socket_of(self, name: str, *, deadline: float) -> str:  # noqa: ARG002
        return ""

    def drift(self, port: Port, *, deadline: float) -> list[str]:  # noqa: ARG002
        return []

    def ours(self, network: str, *, deadline: float) -> list[Found]:  # noqa: ARG002
        return []

    def status(self, *, deadline: float) -> None:
        """Always available."""


def end_name(socket: str, role: str) -> str:
    """Return the device name of one end of the link in the journal. Each of the two ends has one attachment."""
    return f"memif:{hashlib.blake2s(socket.encode(), digest_size=8).hexdigest()}:{role}"
