"""Traffic counters of VFs, as a PF's driver keeps them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.netlink.rtnl import Rtnl

# Counters of the VF's own interface: the first fields of struct rtnl_link_stats64.
_LINK = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")
# Counters from netlink: IFLA_VF_STATS_* of linux/if_link.h, in that order; 6 is padding.
_NETLINK = (*_LINK[:4], "rx_broadcast", "rx_multicast", "", "rx_dropped", "tx_dropped")


def read(pf: PciDevice, host: Rtnl) -> Mapping[int, Mapping[str, int]]:
    """Return counters by VF number: those of sysfs if the driver has them there (they are more), else of netlink.

    Names are those of sysfs: rx_bytes, tx_packets, rx_dropped, ... Empty for a driver that does not count traffic
    of VFs (igb): the kernel then reports only zeros. Raises NetlinkError, OSError.
    """
    name = pf.own_netdev
    folder = pf.path / "sriov"
    if folder.is_dir():  # mlx5_core and others: device/sriov/<number>/stats
        return {int(vf.name): _of_sysfs(vf / "stats") for vf in folder.iterdir() if vf.name.isdigit()}
    link = host.link(name) if name else None
    reported = host.vf_stats(link.index) if link else {}
    counted = {number: _of_netlink(counters) for number, counters in reported.items()}
    return counted if any(any(vf.values()) for vf in counted.values()) else {}


def of_interface(address: str, rtnl: Rtnl) -> dict[str, int]:
    """Return the counters of the VF's own interface in that namespace, {} without one. Raises NetlinkError."""
    link = rtnl.link_of_device(address)
    counters = rtnl.link_stats(link.index) if link else b""
    return dict(zip(_LINK, struct.unpack_from(f"{len(_LINK)}Q", counters), strict=True)) if counters else {}


def _of_sysfs(folder: Path) -> dict[str, int]:
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        text = file.read_text().strip() if file.is_file() and not file.is_symlink() else ""
        if text.isascii() and text.isdigit():
            found[file.name] = int(text)
    return found


def _of_netlink(counters: Mapping[int, bytes]) -> dict[str, int]:
    return {
        name: struct.unpack("Q", counters[kind])[0]
        for kind, name in enumerate(_NETLINK)
        if name and len(counters.get(kind, b"")) == 8
    }
