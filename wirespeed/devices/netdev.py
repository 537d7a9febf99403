"""The network interface of a network function: finds it on the host, and resets the function through it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from wirespeed.devices.device import Device
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl

log = logging.getLogger(__name__)

# Seconds to wait for a VF's netdev to appear on the host. After its network namespace was deleted: the kernel
# destroys namespaces in the background, one after another. After its driver was bound: iavf creates the netdev
# only once it has talked to the PF.
RETURN_TIMEOUT = 10.0


def on_host(host: Rtnl, device: Device) -> Link | None:
    """Return the device's netdev on the host. Look twice, because it may be renamed between the two lookups."""
    for _ in range(2):
        if (names := device.netdevs) and (link := host.link(names[0])) is not None:
            return link
    return None


def reset(where: Rtnl, link: Link) -> None:
    """Change the MTU and change it back: this makes igbvf reset its VF, and has no effect on other drivers.

    After a reset of the PF (e.g. set down), igb accepts no MAC from a VF before the VF was reset too. The permanent
    MAC that igbvf reports is the MAC that the VF had at its last reset.
    """
    with attempt(f"{link.name}: reset"):
        where.set_link(link.index, mtu=link.mtu - 1)
        where.set_link(link.index, mtu=link.mtu)


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """Log a NetlinkError at debug level and continue: the caller checks the outcome."""
    try:
        yield
    except NetlinkError as error:
        log.debug("%s: %s", what, error)
