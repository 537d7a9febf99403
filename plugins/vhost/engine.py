"""The common interface of the switches ("engines"), and the names of ports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any, Protocol

from wirespeed.cni.errors import CniError
from wirespeed.plugins.vhost.conf import VhostConf


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port to create. `socket` is the socket's path for the switch. `addresses` are the switch's own addresses
    on a routed interface, with prefix lengths.
    """

    name: str
    network: str
    container: str
    ifname: str
    socket: str
    conf: VhostConf
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """An existing port of this plugin, or of userspace-CNI, which does not mark its ports (`marked` is False).

    `socket` is "" if it is unknown.
    """

    name: str
    socket: str = ""
    marked: bool = True


class SocketTakenError(CniError):
    """The socket is in use by a port of another attachment; nothing was created."""


class Engine(Protocol):
    """A switch. Thread-safe.

    Every call raises SwitchDownError if it does not answer before `deadline` (time.monotonic()), and CniError if it
    refuses.
    """

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:
        """Create the port; return the switch's identifiers of it, for people to look at.

        After an error, call `remove` to undo a partial port, except after a SocketTakenError.
        """

    def remove(self, port: Found, *, deadline: float) -> None:
        """Remove the port if it exists and is ours, and its bridge if we created it and it is empty now.

        For an unmarked port, remove what userspace-CNI would: a port of that name without our marks, and its bridge
        if that is empty now and has no settings of anybody else.
        """

    def socket_of(self, name: str, *, deadline: float) -> str:
        """Return the socket's path of a port without our marks; "" if the switch does not report it."""

    def drift(self, port: Port, *, deadline: float) -> list[str]:
        """Return how the port differs from what `add` made, as messages."""

    def ours(self, network: str, *, deadline: float) -> list[Found]:
        """Return this plugin's ports of a network, including those that are not in the journal."""

    def status(self, *, deadline: float) -> None:
        """Raise CniError if no port can be created now."""


def port_name(container: str, ifname: str) -> str:
    """Return the name of an attachment's port, and of its socket unless the configuration sets that.

    It is "<first 12 digits of the container id>-<interface>", as in userspace-CNI; parts in another format are
    hashed. If two container ids have the same 12 digits, the second port is refused because its name is taken.
    """
    return f"{short_id(container)}-{ifname if re.fullmatch('[A-Za-z0-9_.-]+', ifname) else _digest(ifname, 4)}"


def short_id(container: str) -> str:
    """Return a short id of the container, at most 12 characters."""
    if re.fullmatch("[0-9a-f]{12,}", container):
        return container[:12]
    if re.fullmatch("[A-Za-z0-9]{1,12}", container):
        return container
    return _digest(container, 6)


def _digest(text: str, size: int) -> str:
    return blake2s(text.encode(), digest_size=size).hexdigest()
