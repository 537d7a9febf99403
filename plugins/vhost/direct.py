"""memif from pod to pod: there is no switch, the two applications share a folder; who is first is the master."""

from __future__ import annotations

import hashlib
from typing import Any

from wirespeed.plugins.vhost.engine import Found, Port


class Direct:
    """The engine where there is none (`wirespeed.plugins.vhost.engine.Engine`)."""

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
        """Nothing that could be missing."""


def end_name(socket: str, role: str) -> str:
    """The journal's name of one end of the link over a socket: it has two, and each belongs to one attachment."""
    return f"memif:{hashlib.blake2s(socket.encode(), digest_size=8).hexdigest()}:{role}"
