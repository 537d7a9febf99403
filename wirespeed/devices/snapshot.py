"""Snapshots of network functions: everything that a pod can change, for restoring it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.devices.vf import Vf
from wirespeed.kernel.ethtool import RssConfig
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.vf import VfSettings


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a function's netdev.

    `parent` is the bus address of its device, `xdp` whether an XDP program was attached, `queues` the number of
    queues and `rss` the RSS configuration (None if the driver does not report it). The last eight are
    kept when the netdev moves between namespaces; None: not recorded by the release that wrote the snapshot.
    """

    name: str
    parent: str
    up: bool
    permanent_mac: str
    altnames: tuple[str, ...]
    xdp: bool
    queues: int | None = None
    rss: RssConfig | None = None
    mac: str | None = None
    mtu: int | None = None
    txqlen: int | None = None
    alias: str | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    arp: bool | None = None
    multicast: bool | None = None

    def changes(self, now: Link) -> dict[str, Any]:
        """Return the properties to set, by keyword of Rtnl.set_link, to restore the netdev from its state `now`.

        An InfiniBand address consists of queue pair number and port GUID and cannot be set.
        """
        return {
            key: was
            for key in NETDEV_PROPERTIES
            if (was := getattr(self, key)) not in {None, getattr(now, key)} and (key != "mac" or not now.infiniband)
        }


# Netdev properties that a pod may change and that are kept when it moves between namespaces. The names are
# attributes of LinkState and Link, and keywords of Rtnl.set_link.
NETDEV_PROPERTIES = ("mac", "mtu", "txqlen", "alias", "promisc", "allmulti", "arp", "multicast")


class VdpaState(msgspec.Struct, frozen=True, kw_only=True):
    """The vdpa device of a function: its name, and its kind (see `VdpaDevice.kind`)."""

    name: str
    driver: str


@structs.prepared
class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a VF or scalable function: number `index` of the PF with the PCI address `pf`.

    `settings` are those in the PF's driver, `link` is the state of its netdev (None for a function in user space).
    """

    pf: str
    index: int
    driver: str
    settings: VfSettings
    vdpa: VdpaState | None = None
    link: LinkState | None = None

    def with_vdpa(self, vf: Vf) -> Vf:
        """Return the function with the snapshot's vdpa device, even if that no longer exists."""
        return replace(vf, vdpa=VdpaDevice(self.vdpa.name, vf.device.sysfs) if self.vdpa else None)


def take(vf: Vf) -> Snapshot:
    """Return a snapshot of the function."""
    link = None
    if vf.link is not None:
        keys = ("name", "parent", "up", "permanent_mac", "altnames", *NETDEV_PROPERTIES)
        same: dict[str, Any] = {key: getattr(vf.link, key) for key in keys}
        link = LinkState(**same, xdp=bool(vf.link.xdp), queues=vf.queues, rss=vf.rss)
    return Snapshot(
        pf=vf.pf.address,
        index=vf.index,
        driver=vf.driver,
        settings=vf.settings,
        vdpa=None if vf.vdpa is None else VdpaState(name=vf.vdpa.address, driver=vf.vdpa.kind),
        link=link,
    )
