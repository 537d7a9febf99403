"""Prepares one VF or scalable function (driver, queues), and moves its interface into the pod."""

from __future__ import annotations

import errno
import logging
from typing import Any

from wirespeed.devices import drivers, netdev, queues, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vf import Vf, find
from wirespeed.errors import Error, Kind
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import MAC_NOT_YET, set_mac, wait_for
from wirespeed.plugins.sriov.conf import Wanted

log = logging.getLogger(__name__)


def rebind(host: Rtnl, vf: Vf, driver: str, *, timeout: float) -> Vf:
    """Bind the VF to another driver, "" for the kernel's default; return it with the netdev that this creates.

    Raises Error: DEVICE, TRY_AGAIN while a process has the VF open.
    """
    assert isinstance(vf.device, PciDevice)  # "driver" is refused for scalable functions
    if driver != vf.driver:
        vfio.check_unused(vf.device)
    drivers.bind(vf.device, driver)
    return find(host, vf.device) if vf.device.is_in_user_space else wait_for_netdev(host, vf, timeout=timeout)


def reprobe(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Rebind the VF to its driver, so that it reads its GUIDs; return the new state. Raises Error(DEVICE)."""
    assert isinstance(vf.device, PciDevice)  # "infinibandGUID" is refused for scalable functions
    drivers.reprobe(vf.device, vf.driver)
    return wait_for_netdev(host, vf, timeout=timeout)


def wait_for_netdev(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Wait until the VF's driver has created its netdev on the host; return the VF. Raises Error(DEVICE)."""
    if netdev.on_host(host, vf.netdev_device) is None:
        wait_for(lambda rtnl: netdev.on_host(rtnl, vf.netdev_device), timeout)
    return find(host, vf.device)


def set_queues(vf: Vf, link: Link, count: int) -> None:
    """Set the number of queues of the VF's netdev, which is still on the host. Raises Error(DEVICE)."""
    there = ethtool.queues(link.name)
    if there is None:
        raise Error(Kind.DEVICE, "its driver cannot change the number of queues", where=vf.where, key="queues")
    if count > there.maximum:
        expected = f"at most {there.maximum}, as many as it has"
        raise Error(Kind.DEVICE, where=vf.where, key="queues", expected=expected, got=count)
    if count != there.count:
        try:
            queues.set_count(link, count)
        except OSError as error:
            raise Error(Kind.DEVICE, str(error.strerror), where=vf.where, key="queues") from error


def move_in(host: Rtnl, vf: Vf, link: Link, ns: netns.NetNs, *, ifname: str, wanted: Wanted) -> None:
    """Move the VF's netdev into the pod, set its properties, and set it up, in one netlink message.

    Raises Error: INTERFACE if the pod has that name already, DEVICE if the driver refuses.
    """
    if ifname in link.altnames:  # the kernel refuses a name that is an altname of the interface
        host.remove_altname(link.index, ifname)
    mac = wanted.mac
    properties = {key: getattr(wanted, key) for key in ("mtu", "txqlen", "promisc", "allmulti")}
    properties |= {"name": ifname, "up": True}
    try:
        try:
            host.set_link(link.index, netns_fd=ns.fd, mac=mac, **properties)
        except NetlinkError as error:
            if mac is None or error.errno not in {*MAC_NOT_YET, errno.EADDRNOTAVAIL}:
                raise
            log.debug("%s: %s: trying its MAC again in %s", vf.where, error, ns.path)
            netns.inside(ns.fd, lambda: _finish_move_inside(vf.netdev_device.address, mac, properties))
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            what = f"network namespace {ns.path} already has an interface {ifname}"
            raise Error(Kind.INTERFACE, what, where=vf.where) from error
        refusable = {"mac": mac, "mtu": wanted.mtu, "txQueueLen": wanted.txqlen}
        asked = ", ".join(f'"{key}"' for key, value in refusable.items() if value is not None)
        keys = f" (keys {asked})" if asked else ""
        what = f"moving it to {ns.path} as {ifname} failed{keys}: {error.strerror}"
        raise Error(Kind.DEVICE, what, where=vf.where) from error


def _finish_move_inside(address: str, mac: str, other_properties: dict[str, Any]) -> None:
    """Finish a move whose MAC was refused: wait until the VF's driver accepts or has the MAC, then set the rest.

    The kernel moves the netdev first, then sets MAC, MTU and name in this order.
    """
    with Rtnl() as inside:
        link = inside.link_of_device(address)
        if link is None:
            raise NetlinkError(errno.ENODEV, "its interface is gone")
        netdev.reset(inside, link)
        set_mac(link.index, mac)
        inside.set_link(link.index, **other_properties)
