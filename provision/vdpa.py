"""vdpa devices of VFs: found in sysfs; made, given a driver of the vdpa bus, and deleted, by netlink."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from wirespeed.cni.errors import CniError, Code

# By what policies call a type: the driver of the vdpa bus, which is its module's name too.
DRIVERS = {"virtio": "virtio_vdpa", "vhost": "vhost_vdpa"}

# Pairs of queues that a device gets where its maker lets that be chosen, as the SR-IOV network operator has it.
_PAIRS = 32

_Attribute = tuple[str, str | int]
_NEW, _DELETE = 3, 4  # enum vdpa_command in linux/vdpa.h


class _Message(genlmsg):  # type: ignore[misc]
    """A message of the family, with the attributes that are used here (enum vdpa_attr in linux/vdpa.h)."""

    prefix = "VDPA_ATTR_"
    nla_map = (
        (1, "VDPA_ATTR_MGMTDEV_BUS_NAME", "asciiz"),
        (2, "VDPA_ATTR_MGMTDEV_DEV_NAME", "asciiz"),
        (4, "VDPA_ATTR_DEV_NAME", "asciiz"),
        (12, "VDPA_ATTR_DEV_NET_CFG_MAX_VQP", "uint16"),
    )


@dataclass(frozen=True, kw_only=True)
class Vdpa:
    """A vdpa device; `kind` is "virtio", "vhost", or "none" without a driver."""

    name: str
    kind: str


def of_devices(sysfs: Path = Path("/sys")) -> dict[str, Vdpa]:
    """The first vdpa device of each device that one was made of, by that one's name: a VF's PCI address."""
    found: dict[str, Vdpa] = {}
    kinds = {driver: kind for kind, driver in DRIVERS.items()}
    folder = sysfs / "bus/vdpa/devices"
    for name in sorted(os.listdir(folder)) if folder.exists() else []:
        parent = (folder / name).resolve().parent.name
        found.setdefault(parent, Vdpa(name=name, kind=kinds.get(_driver(folder / name), "none")))
    return found


def interfaces(name: str, sysfs: Path = Path("/sys")) -> list[str]:
    """The interfaces on the host that virtio_vdpa has made of a vdpa device."""
    return sorted(each.name for each in (sysfs / "bus/vdpa/devices" / name).glob("virtio*/net/*"))


def make(maker: str, name: str, kind: str, sysfs: Path = Path("/sys")) -> None:
    """Have the management device `maker` ("pci/0000:03:00.2", or a name without a bus) make a vdpa device.

    It is on the driver for `kind`; where that cannot be, there is none. Raises CniError(DEVICE).
    """
    where = f"vdpa device {name} of {maker}"
    driver = DRIVERS[kind]
    if not (sysfs / "bus/vdpa/drivers" / driver).exists():
        done = subprocess.run(["modprobe", "--", driver], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CniError(Code.DEVICE, f"{where}: driver {driver} is not there: {done.stderr.strip()}")
    bus, _, device = maker.rpartition("/")
    handle: list[_Attribute] = [("VDPA_ATTR_MGMTDEV_BUS_NAME", bus)] if bus else []
    handle += [("VDPA_ATTR_MGMTDEV_DEV_NAME", device), ("VDPA_ATTR_DEV_NAME", name)]
    try:
        _request(_NEW, [*handle, ("VDPA_ATTR_DEV_NET_CFG_MAX_VQP", _PAIRS)], where)
    except CniError:  # a maker that has fewer, or lets nobody choose
        _request(_NEW, handle, where)
    try:
        _bind(sysfs / "bus/vdpa", name, driver, where)
    except CniError:
        delete(name, sysfs)
        raise


def delete(name: str, sysfs: Path = Path("/sys")) -> None:
    """Delete a vdpa device, if it is there. Raises CniError(DEVICE)."""
    if (sysfs / "bus/vdpa/devices" / name).exists():
        _request(_DELETE, [("VDPA_ATTR_DEV_NAME", name)], f"vdpa device {name}")


def _bind(bus: Path, name: str, driver: str, where: str) -> None:
    """The kernel has probed the drivers that were there in the order of their loading: it may be on another."""
    path = bus / "devices" / name
    if _driver(path) == driver:
        return
    try:
        (path / "driver_override").write_text(driver)
        if _driver(path):
            (path / "driver/unbind").write_text(name)
        (bus / "drivers_probe").write_text(name)
    except OSError as error:
        what = Path(error.filename or "").name
        raise CniError(Code.DEVICE, f"{where}: binding it to {driver}: {what}: {error.strerror}") from error
    if _driver(path) != driver:
        raise CniError(Code.DEVICE, f"{where}: binding it to {driver}: it has {_driver(path) or 'no driver'} now")


def _driver(path: Path) -> str:
    link = path / "driver"
    return link.resolve().name if link.exists() else ""


def _request(command: int, attributes: list[_Attribute], where: str) -> None:
    message = _Message()
    message["cmd"], message["version"], message["attrs"] = command, 1, attributes
    try:
        with GenericNetlinkSocket() as asking:
            asking.bind("vdpa", _Message)
            asking.nlm_request(message, msg_type=asking.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK)
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"{where}: {os.strerror(error.code)}") from error
