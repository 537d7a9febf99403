"""Uevents: notification of PCI devices, and devices on top of them, that are added, removed or changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from wirespeed.kernel.netlink.socket import NETLINK_KOBJECT_UEVENT, NetlinkSocket

_FROM_KERNEL = 1  # the kernel's multicast group; udevd sends its own events to group 2
_SUBSYSTEM = re.compile(rb"\0SUBSYSTEM=(pci|net|auxiliary|vdpa|infiniband)\0")
_DEVPATH = re.compile(rb"\0DEVPATH=([^\0]*)\0")
_ADDRESS = re.compile(r"/([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?=/)")


@dataclass
class Changes:
    """PCI addresses of devices that were added, removed or changed, and of devices whose interfaces were.

    A scalable function or vdpa device counts as its PCI device, an RDMA device as an interface. `lost` means that
    the socket buffer overflowed: any device may have changed.
    """

    devices: set[str] = field(default_factory=set)
    interfaces: set[str] = field(default_factory=set)
    lost: bool = False


class DeviceEvents(NetlinkSocket):
    """Uevents of PCI devices (added, removed, bound or unbound) and their interfaces (also renamed).

    Events of interfaces are those of this thread's network namespace. No udevd is needed. Raises OSError.
    """

    def __init__(self) -> None:
        super().__init__(NETLINK_KOBJECT_UEVENT)
        self.subscribe(groups=_FROM_KERNEL)

    def drain(self) -> Changes:
        """Process all pending events."""
        changes = Changes()
        for event in self.notifications():
            if event is None:
                changes.lost = True
            else:
                _add(changes, event)
        return changes


def _add(changes: Changes, data: bytes) -> None:
    """Add an event to the changes: "add@<path>" and then KEY=value, each ended by a zero byte.

    Most events are not of interest, such as those of the queues of pods' interfaces.
    """
    subsystem, path = _SUBSYSTEM.search(data), _DEVPATH.search(data)
    addresses = _ADDRESS.findall(path[1].decode(errors="replace") + "/") if subsystem and path else []
    if subsystem and addresses:
        (changes.interfaces if subsystem[1] in {b"net", b"infiniband"} else changes.devices).add(addresses[-1])
