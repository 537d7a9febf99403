"""Representors: in switchdev mode, the interfaces of a NIC's embedded switch that stand for its VFs and SFs."""

from __future__ import annotations

import re

from wirespeed.devices.pci import PciDevice
from wirespeed.kernel.sysfs import attribute_text, entries

VF, SF = "vf", "sf"


def representor(pf: PciDevice, kind: str, number: int) -> str:
    """Return the representor of VF or SF `number` of the PF, "" if there is none, as in legacy mode.

    It has the phys_switch_id of the PF's own interface. Its phys_port_name names the controller (if there are
    several), the function number of the PF, and the number of the VF or SF (devlink-port(7)).
    """
    own = pf.own_netdev
    switch = pf.attribute(f"net/{own}/phys_switch_id") if own else ""
    if not switch:
        return ""
    port_name = re.compile(rf"(c\d+)?pf{pf.address[-1]}{kind}{number}")
    folder = f"{pf.sysfs}/class/net"
    ports = ((name, attribute_text(f"{folder}/{name}/phys_port_name")) for name in entries(folder))
    found = (name for name, port in ports if port_name.fullmatch(port))
    return next((name for name in found if attribute_text(f"{folder}/{name}/phys_switch_id") == switch), "")
