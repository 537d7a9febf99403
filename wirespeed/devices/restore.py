"""Restores a network function to a snapshot, from any state and wherever its interface is."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import drivers, netdev, queues, settings, vfio
from wirespeed.devices import rdma as rdma_devices
from wirespeed.devices.functions import Function
from wirespeed.devices.netdev import attempt
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import LinkState, Snapshot, VdpaState
from wirespeed.devices.vf import Vf, without_netdev
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netlink.wait import wait_for

log = logging.getLogger(__name__)


def restore(
    device: Function,
    before: Snapshot,
    where: tuple[str, netns.Identity],
    *,
    timeout: float,
    override: str | None = None,
    reset: bool | None = False,
    reprobe: bool = False,
    rdma: dict[str, int],
) -> None:
    """Restore the VF to the snapshot `before`, from any state.

    `where` is the pod's namespace as `netns.reopened` takes it; `timeout` is in seconds, for a VF whose namespace
    was deleted. If ADD changed the driver, the original driver and its driver_override `override` are restored
    (None: the driver was not changed). `reset` resets a VF in user space; None resets it only if its driver is not
    vfio. `reprobe` rebinds the driver of a VF that got GUIDs. `rdma` are the RDMA devices that were moved into the
    pod, as from `rdma.devices`. A device that is gone is skipped, and so is the netdev of one whose driver was
    unbound or changed. Raises NetlinkError, or CniError: TRY_AGAIN_LATER if the VF did not come back in time or is
    in use, DEVICE that names what could not be restored.
    """
    pf = device.physical_function
    if pf is None or pf.address != before.pf:
        return
    rdma_devices.bring_home(rdma, where)  # before the netdev, which would otherwise lose its addresses
    if isinstance(device, PciDevice):
        # A reset makes igb forget the VF's MAC, so reset only if the settings on the PF can be restored.
        _take_from_application(device, before.driver, override, reset=reset if pf.own_netdev else False)
    with Rtnl() as host:
        vf = before.with_vdpa(without_netdev(host, device, pf))
        if reprobe and before.link is not None and vf.driver in {"", before.driver}:
            vf = _without_guids(host, vf, before)
        if before.link is None or not vf.owner.driver or vf.is_in_user_space:
            settings.put_back(host, vf, before.settings)
            return
        link, vf = _bring_home(host, vf, before.link, where, timeout)
        link, vf = _restore_link(host, vf, link, before.link)
        settings.put_back(host, vf, before.settings)
        _verify_link(vf, link, before.link)


def _without_guids(host: Rtnl, vf: Vf, before: Snapshot) -> Vf:
    """Restore the VF's GUIDs and rebind its driver, which recreates the netdev on the host; return the VF."""
    assert isinstance(vf.device, PciDevice)
    settings.put_back(host, vf, before.settings)
    drivers.reprobe(vf.device, before.driver)
    return without_netdev(host, vf.device, vf.pf)


def _take_from_application(device: PciDevice, driver: str, override: str | None, *, reset: bool | None) -> None:
    """Reset a VF in user space, and restore its original driver and driver_override (see `restore`)."""
    if override is not None and device.driver != driver:
        vfio.check_unused(device)
    # vfio itself resets a function on the last close and on the next open (vfio_pci_core_disable, _enable).
    if device.is_in_user_space and (not device.is_on_vfio if reset is None else reset):
        try:
            drivers.reset(device)
        except CniError as error:  # a failed reset must not block the deletion of the pod
            log.warning("%s", error.msg)
    if override is not None:
        drivers.put_back(device, driver, override)


def _bring_home(
    host: Rtnl, vf: Vf, before: LinkState, where: tuple[str, netns.Identity], timeout: float
) -> tuple[Link, Vf]:
    """Return the VF's netdev on the host, after moving it there if it is still in the pod, and the VF."""
    if (link := netdev.on_host(host, vf.owner)) is not None:
        return link, vf
    with netns.reopened(*where) as ns:
        if ns is not None:
            with Rtnl(netns_fd=ns.fd) as inside:
                link = inside.link_of_device(vf.owner.address)
                if link is not None:
                    vf = _move_out(host, vf, before, inside, link)
                    if (moved := netdev.on_host(host, vf.owner)) is not None:
                        return moved, vf
    # Its namespace is gone, or is just being destroyed: the kernel moves a physical netdev back to the host.
    back = wait_for(lambda rtnl: netdev.on_host(rtnl, vf.owner), timeout)
    if back is None:
        raise CniError(
            Code.TRY_AGAIN_LATER, f"{vf.where}: its interface did not come back to the host within {timeout:.0f} s"
        )
    return back, vf


def _move_out(host: Rtnl, vf: Vf, before: LinkState, inside: Rtnl, link: Link) -> Vf:
    """Move the netdev from the pod to the host in one message, restoring its name and changed properties.

    Return the VF with its current settings on the PF.
    """
    changes = before.changes(link)
    vf = _lend_trust(host, vf, changes)
    _drop_altnames(inside, link, before)
    _drop_xdp(inside, link, before)
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
                # If its name in the pod was free on the host, the kernel has moved it and only the rename failed.
                if (moved := netdev.on_host(host, vf.owner)) is not None:
                    host.set_link(moved.index, name=spare)
                else:
                    inside.set_link(link.index, netns_fd=home, name=spare)
            else:  # another property was refused: it has moved nevertheless, and _restore_link retries on the host
                log.info("%s: moving it home: %s", vf.where, error)
    return vf


def _lend_trust(host: Rtnl, vf: Vf, changes: dict[str, Any]) -> Vf:
    """Trust a VF whose MAC must change: igb lets an untrusted VF change no MAC that the PF has set.

    Return the VF as it is now. Its original trust is restored with its other settings, after the netdev.
    """
    if "mac" in changes and vf.settings.trust is False:
        with attempt(f"{vf.where}: trust"):
            host.set_vf(vf.pf_index, vf.index, VfSettings(trust=True))
            return replace(vf, settings=replace(vf.settings, trust=True))
    return vf


def _restore_link(host: Rtnl, vf: Vf, link: Link, before: LinkState) -> tuple[Link, Vf]:
    """Restore name, state and other properties, each in its own message, so that one refusal blocks no other."""
    vf = _lend_trust(host, vf, before.changes(link))
    lowered = link.up and (link.name != before.name or not before.up)
    if lowered:
        host.set_link(link.index, up=False)
    _drop_altnames(host, link, before)
    _drop_xdp(host, link, before)
    steps = [{key: value} for key, value in before.changes(link).items()]
    if link.name != before.name:
        steps.insert(0, {"name": before.name})
    if before.up:
        steps.append({"up": True})
    for step in steps:
        with attempt(f"{link.name}: {step}"):
            host.set_link(link.index, **step)
    now = (host.link(link.index) or link) if steps or lowered or _left_xdp(link, before) else link
    for name in before.altnames:
        if name not in now.altnames:
            with attempt(f"{link.name}: altname {name}"):
                host.add_altname(link.index, name)
    queues.restore_number(now, before.queues)
    queues.restore_spread(now, before.rss)
    return _restore_mac(host, now, before), vf


def _restore_mac(host: Rtnl, link: Link, before: LinkState) -> Link:
    """Set a MAC that was refused before once more after a reset; restore the permanent MAC (see `_reset`)."""
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


def _drop_altnames(where: Rtnl, link: Link, before: LinkState) -> None:
    """Remove new altnames (udev and pods add some); one of them may be the interface's original name."""
    for name in link.altnames:
        if name not in before.altnames:
            with attempt(f"{link.name}: altname {name}"):
                where.remove_altname(link.index, name)


def _left_xdp(link: Link, before: LinkState) -> tuple[str, ...]:
    """Return the modes of XDP programs that the pod attached; none if a program was attached before ADD."""
    return () if before.xdp else link.xdp


def _drop_xdp(where: Rtnl, link: Link, before: LinkState) -> None:
    """Detach the pod's XDP programs before the MTU is set: with a program, drivers refuse a large MTU."""
    for mode in _left_xdp(link, before):
        with attempt(f"{link.name}: {mode} XDP program"):
            where.detach_xdp(link.index, mode)


def _verify_link(vf: Vf, link: Link, before: LinkState) -> None:
    if link.name != before.name:
        log.warning("%s: is named %s now, was %s: that name is taken", vf.where, link.name, before.name)
    left = [f"{key} is {getattr(link, key)}, was {value}" for key, value in before.changes(link).items()]
    left += [f"an XDP program is attached ({mode})" for mode in _left_xdp(link, before)]
    if link.up != before.up:
        left.append(f"up is {link.up}, was {before.up}")
    if left:
        raise CniError(Code.DEVICE, f"{vf.where}: not restored: {', '.join(left)}")


# CHECK


def drift(host: Rtnl, device: Function, before: Snapshot, driver: str, wanted: VfSettings) -> list[str]:
    """Return the differences in driver and requested settings, as "vlan is 5, expected 100".

    `before` is the snapshot from before ADD, `driver` the expected driver.
    """
    pf = device.physical_function
    if pf is None or pf.address != before.pf:
        return [f"the PF {before.pf} has no such VF any more"]
    vf = before.with_vdpa(without_netdev(host, device, pf))
    wrong = [] if vf.driver == driver else [f"driver is {vf.driver or 'none'}, was {driver}"]
    wrong += _vdpa_drift(vf, before.vdpa)
    return wrong + settings.drift(vf, wanted)


def _vdpa_drift(vf: Vf, before: VdpaState | None) -> list[str]:
    """Return the differences from a snapshot, as messages."""
    if before is None or (vf.vdpa is not None and vf.vdpa.kind == before.driver):
        return []
    return [f"its vdpa device {before.name} is no longer on {before.driver}_vdpa"]
