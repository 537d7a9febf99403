"""The switch in a network card whose PF is in switchdev mode: the interfaces that stand for its VFs there."""

from __future__ import annotations

import os
import re

from wirespeed.host.pci import PciDevice

VF, SF = "vf", "sf"


def representor(pf: PciDevice, kind: str, number: int) -> str:
    """The interface that stands for VF or SF `number` of the PF, "" without one: the PF is in legacy mode.

    It is of the switch that the PF's own interface is of (phys_switch_id), and its phys_port_name says whose it is:
    the controller, where there are several, the PF's function number, and its own number (devlink-port(7)).
    """
    own = pf.own_netdev
    switch = pf.attribute(f"net/{own}/phys_switch_id") if own else ""
    if not switch:
        return ""
    port_name = re.compile(rf"(c\d+)?pf{pf.address[-1]}{kind}{number}")
    folder = f"{pf.sysfs}/class/net"
    named = (name for name in os.listdir(folder) if port_name.fullmatch(_text(f"{folder}/{name}/phys_port_name")))
    return next((name for name in named if _text(f"{folder}/{name}/phys_switch_id") == switch), "")


def _text(path: str) -> str:
    """The text of an attribute; "" where the interface has none or is gone."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
