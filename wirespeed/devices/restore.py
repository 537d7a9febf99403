"""Restores a network function to a snapshot, from any state and wherever its interface is."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from wirespeed.devices import drivers, netdev, queues, settings, vfio
from wirespeed.devices import rdma as rdma_devices
from wirespeed.devices.functions import Function
from wirespeed.devices.netdev import attempt
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import LinkState, Snapshot
from wirespeed.devices.vf import Vf, read_without_netdev
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netlink.wait import set_mac, wait_for

log = logging.getLogger(__name__)

PodNetns = tuple[str, netns.Identity] | None  # the network namespace of a pod, as `netns.reopened` takes it


def restore(
    device: Function,
    before: Snapshot,
    where: PodNetns,
    *,
    timeout: float,
    override: str | None = None,
    reset: bool | None = False,
    reprobe: bool = False,
    on_host_netdev: Callable[[Link], object] | None = None,
    rdma: dict[str, int],
) -> None:
    """Restore the VF to the snapshot `before`, from any state.

    `where` is the pod's namespace, None if the VF was in no pod. `timeout` is in seconds, for the netdev to return
    to the host. `override` is the original driver_override, None if the driver was not changed. `reset`: reset a VF
    in user space; None: only if its driver is not vfio. `reprobe`: rebind the driver of a VF that got GUIDs.
    `on_host_netdev` is called with the netdev on the host before it is changed, e.g. to wait for udev to rename it.
    `rdma` are the RDMA devices that were moved into the pod (see `rdma.devices`). A device that no longer exists is
    left alone, and so is the netdev of a device whose driver was unbound or changed. Raises NetlinkError, or Error:
    TRY_AGAIN if the netdev did not return in time or the VF is in use, DEVICE that names what was not restored.
    """
    pf = device.physical_function
    if pf is None or pf.address != before.pf:
        return
    if where is not None:
        rdma_devices.move_to_host(rdma, where)  # before the netdev, which would otherwise lose its addresses
    if isinstance(device, PciDevice):
        # A reset makes igb forget the VF's MAC, so reset only if the settings on the PF can be restored.
        _reset_and_restore_driver(device, before.driver, override, reset=reset if pf.own_netdev else False)
    with Rtnl() as host:
        vf = before.with_vdpa(read_without_netdev(host, device, pf))
        if reprobe and before.link is not None and vf.driver in {"", before.driver}:
            assert isinstance(device, PciDevice)
            settings.put_back(host, vf, before.settings)
            drivers.reprobe(device, before.driver)  # it recreates the netdev on the host
            vf = read_without_netdev(host, device, pf)
        if before.link is None or not vf.netdev_device.driver or vf.is_in_user_space:
            settings.put_back(host, vf, before.settings)
            return
        link, vf = _netdev_back_on_host(host, vf, before.link, where, timeout)
        if on_host_netdev is not None:
            on_host_netdev(link)
            link = host.link(link.index) or link
        link, vf = _restore_link(host, vf, link, before.link)
        settings.put_back(host, vf, before.settings)
        _verify_link(vf, link, before.link)


def _reset_and_restore_driver(device: PciDevice, driver: str, override: str | None, *, reset: bool | None) -> None:
    """Reset a VF in user space, and restore its original driver and driver_override (see `restore`)."""
    if override is not None and device.driver != driver:
        vfio.check_unused(device)
    # vfio itself resets a function on the last close and on the next open (vfio_pci_core_disable, _enable).
    if device.is_in_user_space and (not device.is_on_vfio if reset is None else reset):
        try:
            drivers.reset(device)
        except Error as error:  # a failed reset must not block the deletion of the pod
            log.warning("%s", error.msg)
    if override is not None:
        drivers.put_back(device, driver, override)


def _netdev_back_on_host(host: Rtnl, vf: Vf, before: LinkState, where: PodNetns, timeout: float) -> tuple[Link, Vf]:
    """Return the VF's netdev on the host, moved there first if it is still in the pod, and the VF."""
    if (link := netdev.on_host(host, vf.netdev_device)) is not None:
        return link, vf
    with netns.reopened(*where) if where else nullcontext() as ns:
        if ns is not None:
            with Rtnl(netns_fd=ns.fd) as inside:
                link = inside.link_of_device(vf.netdev_device.address)
                if link is not None:
                    vf = _move_out(host, vf, before, inside, link)
                    if (moved := netdev.on_host(host, vf.netdev_device)) is not None:
                        return moved, vf
    # Its namespace is gone or is being destroyed: the kernel then moves a physical netdev back to the host.
    if (back := wait_for(lambda rtnl: netdev.on_host(rtnl, vf.netdev_device), timeout)) is not None:
        return back, vf
    raise Error(
        Kind.TRY_AGAIN, f"its interface did not come back to the host within {timeout:.0f} s", where=vf.where
    )


def _move_out(host: Rtnl, vf: Vf, before: LinkState, inside: Rtnl, link: Link) -> Vf:
    """Move the netdev to the host, and restore its name and changed properties in the same netlink message.

    Return the VF with its current settings on the PF.
    """
    changes = before.changes(link)
    vf = _trust_for_mac_change(host, vf, changes)
    _remove_additions(inside, link, before)
    if "mac" in changes:
        # Restore the MAC before the move sets the netdev down: igbvf then takes its MAC as the permanent one.
        with attempt(f"{link.name}: mac"):
            inside.set_link(link.index, mac=changes.pop("mac"))
    with netns.current() as home:
        try:
            inside.set_link(link.index, netns_fd=home, name=before.name, up=before.up, **changes)
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                spare = "vf" + "".join(c for c in vf.device.address if c.isalnum())[-13:]
                log.warning("%s: its name %s is taken on the host, it is %s now", vf.where, before.name, spare)
                # If its name in the pod was free on the host, the kernel has moved it, and only the renaming
                # failed.
                if (moved := netdev.on_host(host, vf.netdev_device)) is not None:
                    host.set_link(moved.index, name=spare)
                else:
                    inside.set_link(link.index, netns_fd=home, name=spare)
            else:  # another property was refused: the netdev has moved anyway, and _restore_link retries
                log.info("%s: moving it back to the host: %s", vf.where, error)
    return vf


def _trust_for_mac_change(host: Rtnl, vf: Vf, changes: dict[str, Any]) -> Vf:
    """Trust a VF whose MAC must change: igb does not let an untrusted VF change a MAC that the PF has set.

    Return the VF with its current settings. Its original trust is restored later with its other settings.
    """
    if "mac" in changes and vf.settings.trust is False:
        with attempt(f"{vf.where}: trust"):
            host.set_vf(vf.pf_index, vf.index, VfSettings(trust=True))
            return replace(vf, settings=replace(vf.settings, trust=True))
    return vf


def _restore_link(host: Rtnl, vf: Vf, link: Link, before: LinkState) -> tuple[Link, Vf]:
    """Restore name, state and other properties, each in its own message: one that is refused blocks no other."""
    vf = _trust_for_mac_change(host, vf, before.changes(link))
    was_set_down = link.up and (link.name != before.name or not before.up)
    if was_set_down:
        host.set_link(link.index, up=False)
    _remove_additions(host, link, before)
    steps = [{key: value} for key, value in before.changes(link).items()]
    if link.name != before.name:
        steps.insert(0, {"name": before.name})
    if before.up:
        steps.append({"up": True})
    for step in steps:
        with attempt(f"{link.name}: {step}"):
            if "mac" in step:
                set_mac(link.index, step["mac"])
            else:
                host.set_link(link.index, **step)
    now = (host.link(link.index) or link) if steps or was_set_down or _new_xdp_modes(link, before) else link
    for name in before.altnames:
        if name not in now.altnames:
            with attempt(f"{link.name}: altname {name}"):
                host.add_altname(link.index, name)
    queues.restore_count(now, before.queues)
    queues.restore_rss(now, before.rss)
    return _restore_mac(host, now, before), vf


def _restore_mac(host: Rtnl, link: Link, before: LinkState) -> Link:
    """If the MAC was refused, set it again after a reset; restore the permanent MAC (see `netdev.reset`)."""
    if link.infiniband:
        return link
    if link.mac != before.mac:
        netdev.reset(host, link)
        with attempt(f"{link.name}: mac after a reset"):
            host.set_link(link.index, mac=before.mac)
        link = host.link(link.index) or link
    if before.permanent_mac not in {"", link.permanent_mac}:
        netdev.reset(host, link)
    return link


def _remove_additions(where: Rtnl, link: Link, before: LinkState) -> None:
    """Remove altnames that udev or the pod added, and the pod's XDP programs.

    An altname may be the interface's original name. With an XDP program, drivers refuse a large MTU.
    """
    for name in link.altnames:
        if name not in before.altnames:
            with attempt(f"{link.name}: altname {name}"):
                where.remove_altname(link.index, name)
    for mode in _new_xdp_modes(link, before):
        with attempt(f"{link.name}: {mode} XDP program"):
            where.detach_xdp(link.index, mode)


def _new_xdp_modes(link: Link, before: LinkState) -> tuple[str, ...]:
    """Return the modes of XDP programs that the pod attached; none if a program was attached before ADD."""
    return () if before.xdp else link.xdp


def _verify_link(vf: Vf, link: Link, before: LinkState) -> None:
    if link.name != before.name:
        log.warning("%s: is named %s now, was %s: that name is taken", vf.where, link.name, before.name)
    left = [f"{key} is {getattr(link, key)}, was {value}" for key, value in before.changes(link).items()]
    left += [f"an XDP program is attached ({mode})" for mode in _new_xdp_modes(link, before)]
    if link.up != before.up:
        left.append(f"up is {link.up}, was {before.up}")
    if left:
        raise Error(Kind.DEVICE, f"not restored: {', '.join(left)}", where=vf.where)


# CHECK


def drift(host: Rtnl, device: Function, before: Snapshot, driver: str, wanted: VfSettings) -> list[str]:
    """Return how driver and settings differ from the requested ones, as messages: "vlan is 5, expected 100".

    `before` is the snapshot from before ADD, `driver` the expected driver.
    """
    pf = device.physical_function
    if pf is None or pf.address != before.pf:
        return [f"the PF {before.pf} has no such VF any more"]
    vf = before.with_vdpa(read_without_netdev(host, device, pf))
    wrong = [] if vf.driver == driver else [f"driver is {vf.driver or 'none'}, was {driver}"]
    if before.vdpa and vf.vdpa and vf.vdpa.kind != before.vdpa.driver:
        wrong.append(f"its vdpa device {before.vdpa.name} is no longer on {before.vdpa.driver}_vdpa")
    return wrong + settings.drift(vf, wanted)
