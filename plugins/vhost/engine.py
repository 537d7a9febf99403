"""The common interface of the switches ("engines"), and the names of ports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

from wirespeed.errors import Error, Kind
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
class ExistingPort:
    """An existing port of this plugin, or of userspace-CNI, which does not mark its ports. `socket` may be ""."""

    name: str
    socket: str = ""
    marked: bool = True


class SocketTakenError(Error):
    """The socket is in use by a port of another attachment; nothing was created."""


def no_bridge(what: str) -> Error:
    """Return the error for a bridge that does not exist and that ADD must not create."""
    return Error(Kind.DEVICE, what, hint='create it, or set the key "host.bridge.create" to true')


class Engine:
    """A switch, thread-safe; by itself the engine "none" for a link without a switch, whose calls do nothing.

    Every call raises SwitchDownError if it does not answer before `deadline` (time.monotonic()), and Error if it
    refuses.
    """

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:  # noqa: ARG002
        """Create the port; return the switch's identifiers of it, for information only.

        After an error, call `remove` to undo a partial port, except after a SocketTakenError.
        """
        return {}

    def remove(self, port: ExistingPort, *, deadline: float) -> None:
        """Remove the port if it exists and is ours, and its bridge if we created it and it is empty now.

        For an unmarked port, do as userspace-CNI: remove a port of that name without our marks, and its bridge if
        that is empty now and nobody has configured it.
        """

    def socket_of(self, name: str, *, deadline: float) -> str:  # noqa: ARG002
        """Return the socket's path of a port without our marks; "" if the switch does not report it."""
        return ""

    def drift(self, port: Port, *, deadline: float) -> list[str]:  # noqa: ARG002
        """Return how the port differs from what `add` created, as messages."""
        return []

    def own_ports(self, network: str, *, deadline: float) -> list[ExistingPort]:  # noqa: ARG002
        """Return this plugin's ports of a network, including those that are not in the journal."""
        return []

    def status(self, *, deadline: float) -> None:
        """Raise Error if no port can be created now."""


def port_name(container: str, ifname: str) -> str:
    """Return the name of an attachment's port, and of its socket if the configuration does not name it.

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


def end_name(socket: str, role: str) -> str:
    """Return the device name in the journal of one end of a link without a switch. Each end has one attachment."""
    return f"memif:{_digest(socket, 8)}:{role}"


def _digest(text: str, size: int) -> str:
    return blake2s(text.encode(), digest_size=size).hexdigest()
