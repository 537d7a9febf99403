"""Traffic counters of VFs, from the first source that has any, and of the vhost-user ports of Open vSwitch."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from wirespeed.devices import pci, vfstats
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.plugins.sriov.record import netdev_parent
from wirespeed.state.journal import DeviceClaim
from wirespeed.switches.switch import ANSWER_TIMEOUT

T = TypeVar("T")

Counters = Mapping[str, int]
_OTHER_WAY = {"rx": "tx", "tx": "rx"}
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})


class VfCounters(NamedTuple):
    """The counters of VF `number` of a PF, as the VF receives (rx) and sends (tx); {} if nothing counts them.

    `at` is when they were read (time.monotonic()).
    """

    pf: PciDevice
    number: int
    device: PciDevice
    counters: Counters
    at: float


def of_vfs(sysfs: Path, claims: Mapping[str, DeviceClaim]) -> Iterator[VfCounters]:
    """Yield each VF of the node with its counters; `claims` are the journal's, by PCI address.

    A VF or PF that is removed meanwhile has no counters. Raises OSError.
    """
    with Rtnl() as host:
        for pf in pci.network_devices(sysfs):
            if not pf.total_vfs:
                continue
            counted = _unless_gone(partial(vfstats.read, pf, host)) or {}
            at = time.monotonic()
            for number, address in pf.virtual_functions():
                device = PciDevice(address, sysfs)
                if counters := counted.get(number):
                    yield VfCounters(pf, number, device, counters, at)
                else:
                    yield VfCounters(pf, number, device, in_pod(claims.get(address)), time.monotonic())


def in_pod(claim: DeviceClaim | None) -> Counters:
    """Return the counters of an attached function's own interface, for a PF whose driver has none."""
    if claim is None:
        return {}
    with netns.reopened(claim.netns, claim.identity) as ns:
        if ns is None:
            return {}
        with Rtnl(netns_fd=ns.fd) as inside:
            return _unless_gone(partial(vfstats.of_interface, netdev_parent(claim), inside)) or {}


def of_switch_ports(rundir: Path) -> dict[str, Counters]:
    """Return the counters of Open vSwitch's ports by name, as what is connected to the port receives and sends.

    What the switch transmits to a port, the pod receives. Raises Error.
    """
    from wirespeed.switches import appctl  # noqa: PLC0415 — needs an extra

    shown = appctl.port_counters(rundir, deadline=time.monotonic() + ANSWER_TIMEOUT)
    return {
        port: {_OTHER_WAY[name[:2]] + name[2:]: value for name, value in switch.items()}
        for port, switch in shown.items()
    }


def _unless_gone(read: Callable[[], T]) -> T | None:
    """Return None if the device is removed while it is read."""
    try:
        return read()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None
