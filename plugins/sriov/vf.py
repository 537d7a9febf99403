"""Gives one VF or scalable function to a pod: its driver, its queues, and the move of its interface."""

from __future__ import annotations

import errno
import logging
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import drivers, netdev, queues, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.vf import Vf, find
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import MAC_NOT_YET, MAC_TIMEOUT, set_mac, wait_for

log = logging.getLogger(__name__)


def rebound(host: Rtnl, vf: Vf, driver: str, *, timeout: float) -> Vf:
    """Bind the VF to another driver, "" for the kernel's default; return it with the netdev that this creates.

    Raises CniError: DEVICE, TRY_AGAIN_LATER while a process has the VF open.
    """
    assert isinstance(vf.device, PciDevice)  # "driver" is refused for scalable functions
    if driver != vf.driver:
        vfio.check_unused(vf.device)
    drivers.bind(vf.device, driver)
    return find(host, vf.device) if vf.device.is_in_user_space else with_netdev(host, vf, timeout=timeout)


def reprobed(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Rebind the VF to its driver, so that it reads its GUIDs; return the new state. Raises CniError(DEVICE)."""
    assert isinstance(vf.device, PciDevice)  # "infinibandGUID" is refused for scalable functions
    drivers.reprobe(vf.device, vf.driver)
    return with_netdev(host, vf, timeout=timeout)


def with_netdev(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Wait until the VF's driver has created its netdev on the host; return the VF. Raises CniError(DEVICE)."""
    if netdev.on_host(host, vf.owner) is None:
        wait_for(lambda rtnl: netdev.on_host(rtnl, vf.owner), timeout)
    return find(host, vf.device)


def set_queues(vf: Vf, link: Link, count: int) -> None:
    """Set the number of queues of the VF's netdev, which is still on the host. Raises CniError(DEVICE)."""
    there = ethtool.queues(link.name)
    if there is None:
        raise CniError(Code.DEVICE, f'{vf.where}: key "queues": its driver lets nobody set how many it works with')
    if count > there.maximum:
        raise CniError(
            Code.DEVICE, f'{vf.where}: key "queues": expected at most {there.maximum}, which it has; got {count}'
        )
    if count != there.count:
        try:
            queues.set_number(link, count)
        except OSError as error:
            raise CniError(Code.DEVICE, f'{vf.where}: key "queues": {error.strerror}') from error


def move_in(
    host: Rtnl,
    vf: Vf,
    link: Link,
    ns: netns.NetNs,
    *,
    ifname: str,
    mac: str | None,
    mtu: int | None,
    promisc: bool | None = None,
    allmulti: bool | None = None,
) -> None:
    """Move the VF's netdev into the pod, set its name, MAC, MTU and flags, and set it up, in one netlink message.

    Raises CniError: INTERFACE if the pod has that name already, DEVICE if the driver refuses.
    """
    if ifname in link.altnames:  # the kernel refuses a name that is an altname of the interface
        host.remove_altname(link.index, ifname)
    rest: dict[str, Any] = {"name": ifname, "mtu": mtu, "promisc": promisc, "allmulti": allmulti, "up": True}
    try:
        try:
            host.set_link(link.index, netns_fd=ns.fd, mac=mac, **rest)
        except NetlinkError as error:
            if mac is None or error.errno not in {*MAC_NOT_YET, errno.EADDRNOTAVAIL}:
                raise
            log.debug("%s: %s: trying its MAC again in %s", vf.where, error, ns.path)
            netns.inside(ns.fd, lambda: _finish_inside(vf.owner.address, mac, rest))
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            raise CniError(
                Code.INTERFACE, f"{vf.where}: network namespace {ns.path} has an interface {ifname} already"
            ) from error
        asked = ", ".join(f'"{key}"' for key, value in (("mac", mac), ("mtu", mtu)) if value is not None)
        raise CniError(
            Code.DEVICE,
            f"{vf.where}: moving it to {ns.path} as {ifname} failed"
            + (f" (keys {asked})" if asked else "")
            + f": {error.strerror}",
        ) from error


def _finish_inside(address: str, mac: str, rest: dict[str, Any]) -> None:
    """Finish a move that failed at the MAC: wait until the VF's driver accepts the MAC or has it, set the rest.

    The kernel moves the netdev first, then sets MAC, MTU and name in this order.
    """
    with Rtnl() as inside:
        link = inside.link_of_device(address)
        if link is None:
            raise NetlinkError(errno.ENODEV, "its interface is gone")
        netdev.reset(inside, link)
        set_mac(link.index, mac, retry_on=MAC_NOT_YET, timeout=MAC_TIMEOUT)
        inside.set_link(link.index, **rest)
