"""The kernel's notices of PCI devices, and of what is made of them, that came, went or changed (uevents)."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass, field

_NETLINK_KOBJECT_UEVENT = 15
_FROM_KERNEL = 1  # the multicast group; udevd sends its own to group 2
_SUBSYSTEM = re.compile(rb"\0SUBSYSTEM=(pci|net|auxiliary|vdpa|infiniband)\0")
_DEVPATH = re.compile(rb"\0DEVPATH=([^\0]*)\0")
_ADDRESS = re.compile(r"/([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?=/)")


@dataclass
class Changes:
    """PCI addresses: of the devices that came, went or changed, and of those whose interfaces did.

    Scalable functions and vdpa devices count as the device that they are made of, RDMA devices as interfaces.

    With `lost`, there were more notices than fit, and it may have been any device.
    """

    devices: set[str] = field(default_factory=set)
    interfaces: set[str] = field(default_factory=set)
    lost: bool = False


class DeviceEvents:
    """Notices PCI devices (made, removed, bound to a driver or unbound) and their interfaces (also renamed).

    Those of interfaces come from this thread's network namespace, and no udevd is needed. Raises OSError.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_KOBJECT_UEVENT,
        )
        self._socket.bind((0, _FROM_KERNEL))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> Changes:
        """Take all notices."""
        changes = Changes()
        while True:
            try:
                data, (sender, _) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return changes
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changes.lost = True
                continue
            if sender == 0:  # the kernel, and no process that says so
                _add(changes, data)

    def close(self) -> None:
        self._socket.close()


def _add(changes: Changes, data: bytes) -> None:
    """Add what a notice says: "add@<path>" and then KEY=value, each ended by a zero byte.

    Most are of other things, such as the queues of the interfaces that pods get.
    """
    subsystem, path = _SUBSYSTEM.search(data), _DEVPATH.search(data)
    addresses = _ADDRESS.findall(path[1].decode(errors="replace") + "/") if subsystem and path else []
    if subsystem and addresses:
        (changes.interfaces if subsystem[1] in {b"net", b"infiniband"} else changes.devices).add(addresses[-1])
