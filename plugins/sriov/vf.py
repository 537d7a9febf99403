"""One VF or scalable function: reads its state, moves it into a pod, and restores it exactly."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import drivers, vfio
from wirespeed.devices.device import Device
from wirespeed.devices.functions import Function, ScalableFunction
from wirespeed.devices.pci import USERSPACE_DRIVERS, PciDevice
from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rdma import Rdma
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netlink.wait import MAC_NOT_YET, MAC_TIMEOUT, set_mac, wait_for
from wirespeed.kube import deviceinfo
from wirespeed.plugins.sriov import rss, settings, sf, vdpa
from wirespeed.plugins.sriov.function import Vf
from wirespeed.state.journal import DeviceClaim

log = logging.getLogger(__name__)

# Seconds to wait for a VF's netdev to appear on the host. After its network namespace was deleted: the kernel
# destroys namespaces in the background, one after another. After its driver was bound: iavf creates the netdev
# only once it has talked to the PF.
RETURN_TIMEOUT = 10.0

# Netdev properties that a pod may change and that survive a move between namespaces. The names are attributes of
# Link and keywords of Rtnl.set_link.
_LINK_KEYS = ("mac", "mtu", "txqlen", "alias", "promisc", "allmulti", "arp", "multicast")


def find(host: Rtnl, device: Function, *, rebinding: bool = False) -> Vf:
    """Read the device's current state; with `rebinding`, it may be without a driver because it will get one.

    Raises CniError: DEVICE that names what was found instead, INVALID_CONFIG for rebinding one with a vdpa device.
    """
    pf = device.physical_function
    if pf is None:
        none = f"there is no such {device.BUS} device"
        fault = "expected an SR-IOV virtual function, it is none" if device.exists else none
        raise CniError(Code.DEVICE, f"device {device.address}: {fault}")
    vf = vdpa.through(_look(host, device, pf))
    if rebinding and vf.vdpa is not None:
        raise CniError(
            Code.INVALID_CONFIG,
            f'{vf.where}: key "driver": expected none: its vdpa device {vf.vdpa.address} would be gone',
        )
    if vf.is_in_user_space or (rebinding and not vf.driver):
        return vf
    link = _netdev(host, vf.owner)
    if link is None:
        raise CniError(
            Code.DEVICE,
            f"device {device.address}: driver {vf.driver or 'none'}, no network interface on the host; expected "
            f"one (is it in another namespace?) or a driver of {', '.join(sorted(USERSPACE_DRIVERS))}",
        )
    if link.master:
        port_of = host.link(link.master)
        raise CniError(
            Code.DEVICE,
            f"{vf.where}: its interface {link.name} is a port of {port_of.name if port_of else link.master} "
            "on the host; expected one that nothing uses",
        )
    found = ethtool.queues(link.name)
    return replace(
        vf,
        link=link,
        infiniband=vf.infiniband or link.infiniband,
        queues=found.count if found else None,
        spread=ethtool.spread(link.name),
    )


def _look(host: Rtnl, device: Function, pf: PciDevice) -> Vf:
    """Return the function, without its netdev."""
    return sf.look(device, pf) if isinstance(device, ScalableFunction) else _seen_from_pf(host, device, pf)


def _seen_from_pf(host: Rtnl, device: PciDevice, pf: PciDevice) -> Vf:
    """Return the VF without its netdev, with its settings on the PF if these are accessible.

    Raises CniError(TRY_AGAIN_LATER) if the PF's driver reports other VFs but not this one.
    """
    index = device.vf_index
    vf = Vf(device=device, pf=pf, index=index, driver=device.driver)
    link = host.link(name, vfs=True) if (name := pf.own_netdev) else None
    if link is None:
        fault = f"PF {pf.address} (driver {pf.driver or 'none'}) has no network interface on the host"
        return replace(vf, pf_fault=fault)
    vf = replace(vf, pf_mtu=link.mtu, infiniband=link.infiniband)
    if not link.vfs:
        return replace(vf, pf_fault=f"the driver of PF {pf.address} ({link.name}) tells of none of its VFs")
    return replace(vf, settings=link.vf(index), pf_index=link.index, held=link.vfs)


def _netdev(host: Rtnl, device: Device) -> Link | None:
    """Return the device's netdev on the host. Look twice, because it may be renamed between the two lookups."""
    for _ in range(2):
        if (names := device.netdevs) and (link := host.link(names[0])) is not None:
            return link
    return None


def snapshot(vf: Vf) -> dict[str, Any]:
    """Return the VF's state for `restore`."""
    link = vf.link
    return {
        "pf": vf.pf.address,
        "index": vf.index,
        "driver": vf.driver,
        "settings": dict(vars(vf.settings)),
        "vdpa": vdpa.noted(vf),
        "link": None
        if link is None
        else {
            "name": link.name,
            "parent": link.parent,
            "up": link.up,
            "permanent_mac": link.permanent_mac,
            "altnames": list(link.altnames),
            "xdp": bool(link.xdp),
            "queues": vf.queues,
            "rss": vf.spread and asdict(vf.spread),
            **{key: getattr(link, key) for key in _LINK_KEYS},
        },
    }


def netdev_parent(claim: DeviceClaim) -> str:
    """Return the bus address of the parent device of a claimed VF's netdev."""
    link = claim.record.get("before", {}).get("link") or {}
    return str(link.get("parent", claim.device))


def info(vf: Vf) -> dict[str, Any] | None:
    """Return its device-info; None for a scalable function, for which the specification has no type."""
    if vf.vdpa is not None:
        return vdpa.info(vf, vf.vdpa)
    if not vf.pci_address:
        return None
    return deviceinfo.pci_info(vf.pci_address, pf_pci_address=vf.pf.address, representor_device=vf.representor)


# Into the pod


def rebound(host: Rtnl, vf: Vf, driver: str, *, timeout: float) -> Vf:
    """Bind the VF to another driver, "" for the kernel's default; return it with the netdev that this creates.

    Raises CniError: DEVICE, TRY_AGAIN_LATER while a process has the VF open.
    """
    assert isinstance(vf.device, PciDevice)  # "driver" is refused for scalable functions
    if driver != vf.driver:
        _check_unused(vf.device)
    drivers.bind(vf.device, driver)
    return find(host, vf.device) if vf.device.is_in_user_space else with_netdev(host, vf, timeout=timeout)


def taken_again(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Rebind the VF to its driver, so that it reads its GUIDs; return the new state. Raises CniError(DEVICE)."""
    assert isinstance(vf.device, PciDevice)  # "infinibandGUID" is refused for scalable functions
    drivers.take_again(vf.device, vf.driver)
    return with_netdev(host, vf, timeout=timeout)


def with_netdev(host: Rtnl, vf: Vf, *, timeout: float) -> Vf:
    """Wait until the VF's driver has created its netdev on the host; return the VF. Raises CniError(DEVICE)."""
    if _netdev(host, vf.owner) is None:
        wait_for(lambda rtnl: _netdev(rtnl, vf.owner), timeout)
    return find(host, vf.device)


def _check_unused(device: PciDevice) -> None:
    """Refuse a VF in use: unbinding it from vfio would block in the kernel until its last user closes it."""
    if user := vfio.user_of(device):
        raise CniError(
            Code.TRY_AGAIN_LATER, f"device {device.address}: {user} has it open; expected nobody to use it"
        )


def rdma_devices(vf: Vf) -> dict[str, int]:
    """Return the index of each of the VF's RDMA devices on the host, by name.

    Raises CniError(DEVICE) if there is none, or if RDMA devices are shared by all network namespaces.
    """
    try:
        names = set(os.listdir(vf.device.path / "infiniband"))
    except OSError:
        names = set()
    if not names:
        raise CniError(Code.DEVICE, f'{vf.where}: key "rdmaIsolation": it has no RDMA device on the host')
    with Rdma() as host:
        if not host.exclusive():
            raise CniError(
                Code.DEVICE,
                f'{vf.where}: key "rdmaIsolation": all network namespaces share the RDMA devices of this node; '
                'expected that each has its own ("rdma system set netns exclusive")',
            )
        return {name: number for name, number in host.devices().items() if name in names}


def move_rdma(vf: Vf, devices: dict[str, int], ns: netns.NetNs) -> None:
    """Move RDMA devices from the host into the pod. Raises CniError(DEVICE)."""
    if not devices:
        return
    with Rdma() as host:
        for name, number in devices.items():
            try:
                host.move(number, ns.fd)
            except NetlinkError as error:
                raise CniError(
                    Code.DEVICE, f'{vf.where}: key "rdmaIsolation": moving {name} to {ns.path}: {error.strerror}'
                ) from error


def rdma_missing(devices: dict[str, int], ns: netns.NetNs) -> list[str]:
    """Return which of the RDMA devices that were moved into the pod are missing, as messages."""
    if not devices:
        return []
    with Rdma(netns_fd=ns.fd) as inside:
        there = set(inside.devices().values())
    return [f"RDMA device {name} is not in {ns.path}" for name, number in devices.items() if number not in there]


def _bring_rdma_home(devices: dict[str, int], where: tuple[str, netns.Identity]) -> None:
    """Move RDMA devices from the pod back to the host; if the namespace is gone, the kernel has done so."""
    if not devices:
        return
    with netns.reopened(*where) as ns, netns.opened("/proc/self/ns/net") as home:
        if ns is None:
            return
        with Rdma(netns_fd=ns.fd) as inside:
            if inside.exclusive():  # in shared mode they are in every namespace
                for number in set(devices.values()) & set(inside.devices().values()):
                    inside.move(number, home.fd)


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
            _set_queues(link, count)
        except OSError as error:
            raise CniError(Code.DEVICE, f'{vf.where}: key "queues": {error.strerror}') from error


def _set_queues(link: Link, count: int) -> None:
    """Set the number of queues. Raises OSError."""
    spread = ethtool.spread(link.name)
    if spread is not None and max(spread.table, default=0) >= count:
        # The kernel refuses to remove a queue that the RSS table uses: reset the table to the default first.
        ethtool.set_spread(link.name, table=())
    ethtool.set_queues(link.name, count)


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
        _reset(inside, link)
        set_mac(link.index, mac, retry_on=MAC_NOT_YET, timeout=MAC_TIMEOUT)
        inside.set_link(link.index, **rest)


def _reset(where: Rtnl, link: Link) -> None:
    """Change the MTU and change it back: this makes igbvf reset its VF, and has no effect on other drivers.

    After a reset of the PF (e.g. set down), igb accepts no MAC from a VF before the VF was reset too. The permanent
    MAC that igbvf reports is the MAC that the VF had at its last reset.
    """
    with _attempt(f"{link.name}: reset"):
        where.set_link(link.index, mtu=link.mtu - 1)
        where.set_link(link.index, mtu=link.mtu)


# Out of the pod


def restore(
    device: Function,
    before: dict[str, Any],
    where: tuple[str, netns.Identity],
    *,
    timeout: float,
    override: str | None = None,
    reset: bool | None = False,
    again: bool = False,
    rdma: dict[str, int],
) -> None:
    """Restore the VF to the snapshot `before`, from any state.

    `where` is the pod's namespace as `netns.reopened` takes it; `timeout` is in seconds, for a VF whose namespace
    was deleted. If ADD changed the driver, the original driver and its driver_override `override` are restored
    (None: the driver was not changed). `reset` resets a VF in user space; None resets it only if its driver is not
    vfio. `again` rebinds the driver of a VF that got GUIDs. `rdma` are the RDMA devices that were moved into the
    pod, as from `rdma_devices`. A device that is gone is skipped, and so is the netdev of one whose driver was
    unbound or changed. Raises NetlinkError, or CniError: TRY_AGAIN_LATER if the VF did not come back in time or is
    in use, DEVICE that names what could not be restored.
    """
    pf = device.physical_function
    if pf is None or pf.address != before["pf"]:
        return
    _bring_rdma_home(rdma, where)  # before the netdev, which would otherwise lose its addresses
    if isinstance(device, PciDevice):
        # A reset makes igb forget the VF's MAC, so reset only if the settings on the PF can be restored.
        _take_from_application(device, before["driver"], override, reset=reset if pf.own_netdev else False)
    with Rtnl() as host:
        vf = vdpa.again(_look(host, device, pf), before.get("vdpa"))
        if again and before["link"] is not None and vf.driver in {"", before["driver"]}:
            vf = _without_guids(host, vf, before)
        if before["link"] is None or not vf.owner.driver or vf.is_in_user_space:
            settings.put_back(host, vf, VfSettings(**before["settings"]))
            return
        link, vf = _bring_home(host, vf, before["link"], where, timeout)
        link, vf = _restore_link(host, vf, link, before["link"])
        settings.put_back(host, vf, VfSettings(**before["settings"]))
        _verify_link(vf, link, before["link"])


def _without_guids(host: Rtnl, vf: Vf, before: dict[str, Any]) -> Vf:
    """Restore the VF's GUIDs and rebind its driver, which recreates the netdev on the host; return the VF."""
    assert isinstance(vf.device, PciDevice)
    settings.put_back(host, vf, VfSettings(**before["settings"]))
    drivers.take_again(vf.device, before["driver"])
    return _look(host, vf.device, vf.pf)


def _take_from_application(device: PciDevice, driver: str, override: str | None, *, reset: bool | None) -> None:
    """Reset a VF in user space, and restore its original driver and driver_override (see `restore`)."""
    if override is not None and device.driver != driver:
        _check_unused(device)
    # vfio itself resets a function on the last close and on the next open (vfio_pci_core_disable, _enable).
    if device.is_in_user_space and (not device.is_on_vfio if reset is None else reset):
        try:
            drivers.reset(device)
        except CniError as error:  # a failed reset must not block the deletion of the pod
            log.warning("%s", error.msg)
    if override is not None:
        drivers.put_back(device, driver, override)


def _bring_home(
    host: Rtnl, vf: Vf, before: dict[str, Any], where: tuple[str, netns.Identity], timeout: float
) -> tuple[Link, Vf]:
    """Return the VF's netdev on the host, after moving it there if it is still in the pod, and the VF."""
    if (link := _netdev(host, vf.owner)) is not None:
        return link, vf
    with netns.reopened(*where) as ns:
        if ns is not None:
            with Rtnl(netns_fd=ns.fd) as inside:
                link = inside.link_of_device(vf.owner.address)
                if link is not None:
                    vf = _move_out(host, vf, before, inside, link)
                    if (moved := _netdev(host, vf.owner)) is not None:
                        return moved, vf
    # Its namespace is gone, or is just being destroyed: the kernel moves a physical netdev back to the host.
    back = wait_for(lambda rtnl: _netdev(rtnl, vf.owner), timeout)
    if back is None:
        raise CniError(
            Code.TRY_AGAIN_LATER, f"{vf.where}: its interface did not come back to the host within {timeout:.0f} s"
        )
    return back, vf


def _move_out(host: Rtnl, vf: Vf, before: dict[str, Any], inside: Rtnl, link: Link) -> Vf:
    """Move the netdev from the pod to the host in one message, restoring its name and changed properties.

    Return the VF with its current settings on the PF.
    """
    changes = _changes(link, before)
    vf = _lend_trust(host, vf, changes)
    _drop_altnames(inside, link, before)
    _drop_xdp(inside, link, before)
    if "mac" in changes:
        # Restore the MAC before the move sets the netdev down: igbvf then takes its MAC as the permanent one.
        with _attempt(f"{link.name}: mac"):
            inside.set_link(link.index, mac=changes.pop("mac"))
    with netns.current() as home:
        try:
            inside.set_link(link.index, netns_fd=home, name=before["name"], up=before["up"], **changes)
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                spare = "vf" + "".join(c for c in vf.device.address if c.isalnum())[-13:]
                log.warning("%s: its name %s is taken on the host, it is %s now", vf.where, before["name"], spare)
                # If its name in the pod was free on the host, the kernel has moved it and only the rename failed.
                if (moved := _netdev(host, vf.owner)) is not None:
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
        with _attempt(f"{vf.where}: trust"):
            host.set_vf(vf.pf_index, vf.index, VfSettings(trust=True))
            return replace(vf, settings=replace(vf.settings, trust=True))
    return vf


@contextlib.contextmanager
def _attempt(what: str) -> Iterator[None]:
    """Log a NetlinkError at debug level and continue: `_verify_link` checks the outcome."""
    try:
        yield
    except NetlinkError as error:
        log.debug("%s: %s", what, error)


def _changes(link: Link, before: dict[str, Any]) -> dict[str, Any]:
    """Return the properties to set, by keyword of Rtnl.set_link, to restore the netdev.

    Keys missing in `before` (a snapshot of an older release) are skipped. An InfiniBand address consists of queue
    pair number and port GUID and cannot be set.
    """
    return {
        key: before[key]
        for key in _LINK_KEYS
        if key in before and getattr(link, key) != before[key] and (key != "mac" or not link.infiniband)
    }


def _restore_link(host: Rtnl, vf: Vf, link: Link, before: dict[str, Any]) -> tuple[Link, Vf]:
    """Restore name, state and other properties, each in its own message, so that one refusal blocks no other."""
    vf = _lend_trust(host, vf, _changes(link, before))
    lowered = link.up and (link.name != before["name"] or not before["up"])
    if lowered:
        host.set_link(link.index, up=False)
    _drop_altnames(host, link, before)
    _drop_xdp(host, link, before)
    steps = [{key: value} for key, value in _changes(link, before).items()]
    if link.name != before["name"]:
        steps.insert(0, {"name": before["name"]})
    if before["up"]:
        steps.append({"up": True})
    for step in steps:
        with _attempt(f"{link.name}: {step}"):
            host.set_link(link.index, **step)
    now = (host.link(link.index) or link) if steps or lowered or _left_xdp(link, before) else link
    for name in before["altnames"]:
        if name not in now.altnames:
            with _attempt(f"{link.name}: altname {name}"):
                host.add_altname(link.index, name)
    _restore_queues(now, before)
    rss.restore(now, before.get("rss"))
    return _restore_mac(host, now, before), vf


def _restore_queues(link: Link, before: dict[str, Any]) -> None:
    """Restore the number of queues; the pod may have changed it too. Raises CniError(DEVICE)."""
    wanted, now = before.get("queues"), ethtool.queues(link.name)
    if wanted is not None and now is not None and now.count != wanted:
        try:
            _set_queues(link, wanted)
        except OSError as error:
            raise CniError(
                Code.DEVICE, f"{link.name}: not restored: queues is {now.count}, was {wanted} ({error.strerror})"
            ) from error


def _restore_mac(host: Rtnl, link: Link, before: dict[str, Any]) -> Link:
    """Set a MAC that was refused before once more after a reset; restore the permanent MAC (see `_reset`)."""
    if link.infiniband:
        return link
    if link.mac != before["mac"]:
        _reset(host, link)
        with _attempt(f"{link.name}: mac after a reset"):
            host.set_link(link.index, mac=before["mac"])
        link = host.link(link.index) or link
    if before["permanent_mac"] not in {"", link.permanent_mac}:
        _reset(host, link)
    return link


def _drop_altnames(where: Rtnl, link: Link, before: dict[str, Any]) -> None:
    """Remove new altnames (udev and pods add some); one of them may be the interface's original name."""
    for name in link.altnames:
        if name not in before["altnames"]:
            with _attempt(f"{link.name}: altname {name}"):
                where.remove_altname(link.index, name)


def _left_xdp(link: Link, before: dict[str, Any]) -> tuple[str, ...]:
    """Return the modes of XDP programs that the pod attached; none if a program was attached before ADD."""
    return () if before["xdp"] else link.xdp


def _drop_xdp(where: Rtnl, link: Link, before: dict[str, Any]) -> None:
    """Detach the pod's XDP programs before the MTU is set: with a program, drivers refuse a large MTU."""
    for mode in _left_xdp(link, before):
        with _attempt(f"{link.name}: {mode} XDP program"):
            where.detach_xdp(link.index, mode)


def _verify_link(vf: Vf, link: Link, before: dict[str, Any]) -> None:
    if link.name != before["name"]:
        log.warning("%s: is named %s now, was %s: that name is taken", vf.where, link.name, before["name"])
    left = [f"{key} is {getattr(link, key)}, was {value}" for key, value in _changes(link, before).items()]
    left += [f"an XDP program is attached ({mode})" for mode in _left_xdp(link, before)]
    if link.up != before["up"]:
        left.append(f"up is {link.up}, was {before['up']}")
    if left:
        raise CniError(Code.DEVICE, f"{vf.where}: not restored: {', '.join(left)}")


# CHECK


def drift(host: Rtnl, device: Function, before: dict[str, Any], driver: str, wanted: VfSettings) -> list[str]:
    """Return the differences in driver and requested settings, as "vlan is 5, expected 100".

    `before` is the snapshot from before ADD, `driver` the expected driver.
    """
    pf = device.physical_function
    if pf is None or pf.address != before["pf"]:
        return [f"the PF {before['pf']} has no such VF any more"]
    vf = vdpa.again(_look(host, device, pf), before.get("vdpa"))
    wrong = [] if vf.driver == driver else [f"driver is {vf.driver or 'none'}, was {driver}"]
    wrong += vdpa.drift(vf, before.get("vdpa"))
    return wrong + settings.drift(vf, wanted)
