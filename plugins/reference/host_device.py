"""host-device: moves an interface of the node into the pod, and back, with its name on the node as its alias."""

from __future__ import annotations

import errno
import os
from glob import glob
from typing import Any, NamedTuple

import msgspec

from wirespeed import errors, structs
from wirespeed.cni import result as results
from wirespeed.cni.address import octets
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.devices.pci import USERSPACE_DRIVERS
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam
from wirespeed.kernel import netns, sysfs
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.plugins.reference.pod import Sides

_PCI, _AUXILIARY = "/sys/bus/pci/devices", "/sys/bus/auxiliary/devices"


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True):
    """The plugin's keys. The first one that is set, in this order, tells which interface it is."""

    device: str = ""
    hwaddr: str = ""
    kernelpath: str = ""
    pci: str = msgspec.field(name="pciBusID", default="")
    dpdk: bool = msgspec.field(name="DPDKMode", default=False)
    ipam: dict[str, Any] = {}


class Wanted(NamedTuple):
    """The keys, after runtimeConfig.deviceID has replaced `pci`, or named an auxiliary device.

    A device `in_user_space` has no interface, so nothing is moved.
    """

    keys: Keys
    pci: str
    auxiliary: str
    in_user_space: bool


class HostDevice:
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def add(self, request: Request) -> Result:
        wanted = _read(request)
        dns = conf.dns(request)
        if wanted.in_user_space:
            with netns.opened(request.netns):
                result, mac = self._allocate(request, wanted.keys), {}
        else:
            with pods.opened(request) as sides:
                device = _find(sides.host, wanted)
                mac = {"mac": device.mac}
                result = self._attach(request, sides, wanted.keys, device)
        result["interfaces"] = [{"name": request.ifname, **mac, "sandbox": request.netns}]
        result["dns"] = dns if result["ips"] else {}  # as the reference plugin, none without IPAM
        return result

    def _attach(self, request: Request, sides: Sides, keys: Keys, device: Link) -> Result:
        _move_in(sides, device, request.ifname)
        try:
            result = self._allocate(request, keys)
            if result["ips"]:
                pods.configure(sides, pods.find(sides.pod, request.ifname), result)
        except BaseException:
            release = [lambda: self._ipam.delete(request, attached=False)]
            errors.run_all([lambda: _undo(sides, device, request.ifname), *release])
            raise
        return result

    def _allocate(self, request: Request, keys: Keys) -> Result:
        """Return the addresses and routes of IPAM, if there is one, as a result."""
        if not keys.ipam.get("type"):
            return results.empty()
        found = pods.allocate(request, self._ipam)
        ips = [{**ip, "interface": 0} for ip in found["ips"]]
        return {**results.empty(), "ips": ips, "routes": found["routes"]}

    def delete(self, request: Request) -> None:
        errors.run_all([lambda: _put_back(request), lambda: self._ipam.delete(request)])

    def check(self, request: Request) -> None:
        wanted = _read(request)
        self._ipam.check(request)
        if wanted.in_user_space:
            with netns.opened(request.netns):
                results.read(request.config.get("prevResult"))
            return
        with pods.opened(request) as sides:
            pods.raise_drift(pods.drift(request, sides.pod, None))

    def gc(self, request: Request) -> None:
        self._ipam.gc(request)

    def status(self, request: Request) -> None:
        self._ipam.status(request)


# Which interface


def _read(request: Request) -> Wanted:
    """Read the keys. Raises Error: INVALID_CONFIG, or DEVICE for a PCI device without a driver."""
    keys = conf.read(request, Keys)
    pci, auxiliary = _device_id(request, keys.pci)
    if not (keys.device or keys.hwaddr or keys.kernelpath or pci or auxiliary):
        what = 'expected one of the keys "device", "hwaddr", "kernelpath" or "pciBusID"'
        raise Error(
            Kind.INVALID_CONFIG, what, about=errors.about_keys("device", "hwaddr", "kernelpath", "pciBusID")
        )
    in_user_space = keys.dpdk
    if pci:
        driver = sysfs.link_name(f"{_PCI}/{pci}/driver")
        if not driver:
            raise Error(Kind.DEVICE, "there is no such device, or it has no driver", where=f"PCI device {pci}")
        in_user_space = driver in USERSPACE_DRIVERS
    return Wanted(keys, pci, auxiliary, in_user_space)


def _device_id(request: Request, pci: str) -> tuple[str, str]:
    """Return the addresses of the PCI and the auxiliary device, each "" if there is none."""
    identity = structs.object_in(request.config, "runtimeConfig").get("deviceID")
    if not identity:
        return pci, ""
    if not isinstance(identity, str):
        raise structs.wrong("runtimeConfig.deviceID", "the address of a device", identity)
    if os.path.exists(f"{_PCI}/{identity}"):
        return identity, ""
    if os.path.exists(f"{_AUXILIARY}/{identity}"):
        return "", identity
    raise Error(Kind.DEVICE, "no such PCI or auxiliary device", where=f"runtimeConfig.deviceID {identity}")


def _find(host: Rtnl, wanted: Wanted) -> Link:
    """Return the interface that the keys name. Raises Error(INVALID_CONFIG, DEVICE)."""
    keys = wanted.keys
    if keys.device:
        name = keys.device
    elif keys.hwaddr:
        return _of_address(host, keys.hwaddr)
    elif keys.kernelpath:
        if not keys.kernelpath.startswith("/sys/devices/"):
            raise structs.wrong("kernelpath", "a path that begins with /sys/devices/", keys.kernelpath)
        name = _netdev_in(f"{keys.kernelpath}/net")
    elif wanted.pci:
        folder = f"{_PCI}/{wanted.pci}/net"
        if not os.path.exists(folder):  # a virtio device is on a bus of its own, below the PCI device
            folder = next(iter(sorted(glob(f"{_PCI}/{wanted.pci}/virtio*/net"))), folder)
        name = _netdev_in(folder)
    else:
        name = _netdev_in(f"{_AUXILIARY}/{wanted.auxiliary}/net")
    found = host.link(name)
    if found is None:
        raise Error(Kind.DEVICE, "no such interface", where=f"interface {name}")
    return found


def _netdev_in(folder: str) -> str:
    names = sysfs.entries(folder)
    if not names:
        raise Error(Kind.DEVICE, "there is no interface", where=folder)
    return names[0]


def _of_address(host: Rtnl, hwaddr: str) -> Link:
    wanted = octets(hwaddr)
    found = next((each for each in host.links() if wanted and each.mac == wanted), None)
    if found is None:
        raise Error(Kind.DEVICE, f"no interface has the MAC address {hwaddr}", where='key "hwaddr"')
    return found


# Moving


def _move_in(sides: Sides, device: Link, ifname: str) -> None:
    """Move the interface into the pod, rename it and set it up, in one message. Raises Error(INTERFACE)."""
    try:
        sides.host.set_link(device.index, netns_fd=sides.ns.fd, name=ifname, alias=device.name, up=True)
    except NetlinkError as error:
        errors.run_all([lambda: _undo(sides, device, ifname)])
        what = f"moving it to {sides.ns.path} as {ifname} failed: {error.strerror}"
        raise Error(Kind.INTERFACE, what, where=f"interface {device.name}") from error


def _undo(sides: Sides, device: Link, ifname: str) -> None:
    """Move the interface back and restore its name, alias and state, however far the move came."""
    there = sides.host.link(device.index)
    if there is not None and there.name == device.name:
        return
    for name, alias in ((ifname, device.name), (device.name, device.alias)):
        link = sides.pod.link(name)
        if link is not None and (link.mac, link.alias, link.kind) == (device.mac, alias, device.kind):
            _move_out(sides.pod, link, device.name, alias=device.alias, up=device.up)
            return


def _put_back(request: Request) -> None:
    """Move the interface back to the node, where it stays down. Raises Error(INTERFACE).

    One without an alias is none that ADD moved.
    """
    with pods.opened_pod(request) as pod:
        link = pod.link(request.ifname) if pod is not None else None
        if pod is None or link is None or not link.alias or _in_user_space(request):
            return
        _move_out(pod, link, link.alias, alias="", up=None)


def _in_user_space(request: Request) -> bool:
    try:
        return _read(request).in_user_space
    except Error:
        return False


def _move_out(pod: Rtnl, link: Link, name: str, *, alias: str, up: bool | None) -> None:
    """Move the interface to the node under a name, which nobody must have there. Raises Error(INTERFACE).

    It is renamed before: udev would otherwise see two names of a new interface on the node in quick succession, and
    might rename it in between. It can only be renamed after the move if another one in the pod has that name.
    """
    with pods.interface_errors(f"interface {name}"), netns.current() as node:
        try:
            _rename(pod, link, name)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            _check_unused(name)
        try:
            pod.set_link(link.index, netns_fd=node, name=name, alias=alias, up=up)
        except BaseException:
            errors.run_all([lambda: pod.set_link(link.index, name=link.name, up=link.up)])
            raise


def _check_unused(name: str) -> None:
    with Rtnl() as host:
        if host.link(name) is not None:
            what = "an interface of the node has that name already"
            raise Error(Kind.INTERFACE, what, where=f"interface {name}")


def _rename(pod: Rtnl, link: Link, name: str) -> None:
    """Rename an interface of the pod; before Linux 6.2, it must be down."""
    if link.name == name:
        return
    try:
        pod.set_link(link.index, name=name)
    except NetlinkError as error:
        if error.errno != errno.EBUSY:
            raise
        pod.set_link(link.index, up=False)
        pod.set_link(link.index, name=name)
