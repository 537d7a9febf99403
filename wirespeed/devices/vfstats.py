"""Traffic counters of VFs, as a PF's driver keeps them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.netlink.rtnl import Rtnl

# Counters from netlink: IFLA_VF_STATS_* of linux/if_link.h, in that order; 6 is padding.
_NETLINK = {
    0: "rx_packets",
    1: "tx_packets",
    2: "rx_bytes",
    3: "tx_bytes",
    4: "rx_broadcast",
    5: "rx_multicast",
    7: "rx_dropped",
    8: "tx_dropped",
}
# Counters of the VF's own interface: the first fields of struct rtnl_link_stats64.
_LINK = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")


def read(pf: PciDevice, host: Rtnl) -> Mapping[int, Mapping[str, int]]:
    """Return counters by VF number: those that the driver has in sysfs (there are more), else those of netlink.

    Names are those of sysfs: rx_bytes, tx_packets, rx_dropped, ... Empty for a driver that does not count for its
    VFs (igb), for which the kernel reports only zeros. Raises NetlinkError, OSError.
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
    size = 8 * len(_LINK)
    return dict(zip(_LINK, struct.unpack(f"{len(_LINK)}Q", counters[:size]), strict=True)) if counters else {}


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
        for kind, name in _NETLINK.items()
        if len(counters.get(kind, b"")) == 8
    }
