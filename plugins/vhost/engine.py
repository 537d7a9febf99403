"""What the plugin asks of a switch: the interface of the engines, and the name that a port has there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any, Protocol

from wirespeed.cni.errors import CniError
from wirespeed.plugins.vhost.conf import VhostConf


@dataclass(frozen=True, kw_only=True)
class Port:
    """A port to be made. `socket` is the path by which the switch reaches the socket, `addresses` are those
    that a routed interface of the switch has itself.
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
    """A port that this plugin made, or userspace-CNI did, which leaves no marks (`marked`).

    `socket` is "" where the switch does not tell.
    """

    name: str
    socket: str = ""
    marked: bool = True


class SocketTakenError(CniError):
    """A port that is not of this attachment is on the socket: nothing was made."""


class Engine(Protocol):
    """A switch. Every call raises SwitchDownError when it does not answer before `deadline` (time.monotonic()),
    and CniError when it refuses. Safe from any thread.
    """

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:
        """Make the port; what the switch calls it, for people who look. After an error `remove` takes away what
        was made of it, unless that is a SocketTakenError.
        """

    def remove(self, port: Found, *, deadline: float) -> None:
        """Remove the port if it is there and ours, and a bridge that we made and that is empty now.

        Of what is not marked that is what userspace-CNI removes: a port of that name without our marks, and its
        bridge if that is empty now and bears nobody's settings.
        """

    def socket_of(self, name: str, *, deadline: float) -> str:
        """The path by which the switch connects to the socket of a port without our marks; "" where it does not."""

    def drift(self, port: Port, *, deadline: float) -> list[str]:
        """What of the port is not as `add` made it."""

    def ours(self, network: str, *, deadline: float) -> list[Found]:
        """The ports of a network that this plugin made, also those that no journal knows any more."""

    def status(self, *, deadline: float) -> None:
        """Raise CniError when no port could be made now."""


def port_name(container: str, ifname: str) -> str:
    """The name of an attachment's port, and of its socket unless the configuration names that.

    12 digits of the container's id and the interface's name, as the peer has it; what does not fit that is
    hashed. Should two containers' ids begin alike, the second one's port is refused, for its name is taken.
    """
    return f"{short_id(container)}-{ifname if re.fullmatch('[A-Za-z0-9_.-]+', ifname) else _digest(ifname, 4)}"


def short_id(container: str) -> str:
    """12 characters at most that stand for a container."""
    if re.fullmatch("[0-9a-f]{12,}", container):
        return container[:12]
    if re.fullmatch("[A-Za-z0-9]{1,12}", container):
        return container
    return _digest(container, 6)


def _digest(text: str, size: int) -> str:
    return blake2s(text.encode(), digest_size=size).hexdigest()
