"""One VF: what it is, giving it to a pod, and bringing it back exactly as it was."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.host import netns, rtnl
from wirespeed.host.pci import USERSPACE_DRIVERS, PciDevice
from wirespeed.host.rtnl import Link, NetlinkError, Rtnl, VfSettings

log = logging.getLogger(__name__)

NO_MAC = "00:00:00:00:00:00"

# How long a VF may take to appear in the host's namespace after its own was deleted, in seconds: the kernel
# takes namespaces down in the background, one after another.
RETURN_TIMEOUT = 10.0

# The configuration's key for each setting, as errors name it.
_KEYS = {
    "mac": "mac",
    "vlan": "vlan",
    "vlan_qos": "vlanQoS",
    "vlan_proto": "vlanProto",
    "min_tx_rate": "min_tx_rate",
    "max_tx_rate": "max_tx_rate",
    "spoofchk": "spoofchk",
    "trust": "trust",
    "link_state": "link_state",
}
# The settings that are one for the kernel: set, and named in an error, together.
_GROUPS = (
    ("mac",),
    ("vlan", "vlan_qos", "vlan_proto"),
    ("min_tx_rate", "max_tx_rate"),
    ("spoofchk",),
    ("link_state",),
    ("trust",),
)


@dataclass(frozen=True, kw_only=True)
class Vf:
    """A VF and its place: number `index` of the PF `pf`, whose interface has `pf_index` on the host.

    `driver` is the VF's, `link` its netdev on the host (None on vfio), `settings` what the PF holds for it.
    """

    device: PciDevice
    pf: PciDevice
    pf_index: int
    index: int
    driver: str
    settings: VfSettings
    link: Link | None

    @property
    def where(self) -> str:
        return f"VF {self.device.address} (VF {self.index} of PF {self.pf.address}, driver {self.driver or 'none'})"


def find(host: Rtnl, device: PciDevice) -> Vf:
    """The VF at a PCI address, as it is now. Raises CniError(DEVICE) that says what was found instead."""
    pf, index = _place(device)
    settings, pf_index = _pf_side(host, pf, index)
    driver = device.driver
    link = None
    if driver not in USERSPACE_DRIVERS:
        names = device.netdevs
        link = host.link(names[0]) if names else None
        if link is None:
            raise CniError(
                Code.DEVICE,
                f"device {device.address}: driver {driver or 'none'}, no network interface on the host; expected "
                f"one (is it in another namespace?) or a driver of {', '.join(sorted(USERSPACE_DRIVERS))}",
            )
    return Vf(device=device, pf=pf, pf_index=pf_index, index=index, driver=driver, settings=settings, link=link)


def _place(device: PciDevice) -> tuple[PciDevice, int]:
    if not device.exists:
        raise CniError(Code.DEVICE, f"device {device.address}: there is no such PCI device")
    pf = device.physical_function
    if pf is None:
        raise CniError(Code.DEVICE, f"device {device.address}: expected an SR-IOV virtual function, it is none")
    return pf, device.vf_index


def _pf_side(host: Rtnl, pf: PciDevice, index: int) -> tuple[VfSettings, int]:
    """What the PF's driver holds for VF `index`, and the PF's interface index."""
    names = pf.netdevs
    link = host.link(names[0], vfs=True) if names else None
    if link is None:
        raise CniError(
            Code.DEVICE, f"PF {pf.address}: driver {pf.driver or 'none'}, no network interface on the host"
        )
    if index >= len(link.vfs):
        raise CniError(
            Code.DEVICE,
            f"PF {pf.address} ({link.name}): reports {len(link.vfs)} VFs, expected one with number {index}",
        )
    return link.vfs[index], link.index


def snapshot(vf: Vf) -> dict[str, Any]:
    """What `restore` needs to make the VF what it is now."""
    link = vf.link
    return {
        "pf": vf.pf.address,
        "index": vf.index,
        "settings": asdict(vf.settings),
        "link": None
        if link is None
        else {
            "name": link.name,
            "mac": link.mac,
            "mtu": link.mtu,
            "up": link.up,
            "altnames": list(link.altnames),
        },
    }


def apply(host: Rtnl, vf: Vf, wanted: VfSettings) -> VfSettings:
    """Set what is wanted and not so already, in one message where the driver takes that.

    A netdev that is to get a MAC is trusted meanwhile: on some drivers (igb) a VF may not even take the MAC
    that the PF has set for it otherwise. Returns what to set once the netdev has it.
    Raises CniError(DEVICE) that names the key that the driver refuses; those before it are then set.
    """
    changes = _whole(wanted.differing(vf.settings), wanted, vf.settings)
    lent = vf.link is not None and wanted.mac not in (None, vf.link.mac) and vf.settings.trust is False
    if lent and not wanted.trust:
        changes = replace(changes, trust=True)
    try:
        host.set_vf(vf.pf_index, vf.index, changes)
    except NetlinkError:
        for part in _parts(changes):
            try:
                host.set_vf(vf.pf_index, vf.index, part)
            except NetlinkError as error:
                asked = dict(wanted.differing(vf.settings).items())
                keys = ", ".join(f'"{_KEYS[key]}"' for key, _ in part.items() if key in asked)
                if keys:
                    raise CniError(
                        Code.DEVICE,
                        f"{vf.where}: key {keys}: the driver of the PF refuses it: {error.strerror}",
                    ) from error
    return VfSettings(trust=False) if lent and not wanted.trust else VfSettings()


def _whole(changes: VfSettings, wanted: VfSettings, current: VfSettings) -> VfSettings:
    """The changes, each group of which one is in it completed: from what is wanted, else from what is."""
    filled = {}
    for group in _GROUPS:
        if any(getattr(changes, key) is not None for key in group):
            for key in group:
                value = getattr(wanted, key)
                filled[key] = getattr(current, key) if value is None else value
    return VfSettings(**filled)


def _parts(settings: VfSettings) -> Iterator[VfSettings]:
    """The settings one group at a time."""
    for group in _GROUPS:
        part = {key: value for key in group if (value := getattr(settings, key)) is not None}
        if part:
            yield VfSettings(**part)


def move_in(host: Rtnl, vf: Vf, ns: netns.NetNs, *, ifname: str, mac: str | None, mtu: int | None) -> None:
    """Move the VF's netdev into the pod, name it, address it and raise it: one message.

    Raises CniError: INTERFACE when the pod has that name already, DEVICE when the driver refuses.
    """
    assert vf.link is not None
    try:
        host.set_link(vf.link.index, netns_fd=ns.fd, name=ifname, mac=mac, mtu=mtu, up=True)
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


def restore(device: PciDevice, before: dict[str, Any], where: tuple[str, int, int], *, timeout: float) -> None:
    """Make the VF what `before` (a snapshot) says, from whatever state it is in.

    `where` is the pod's namespace (path, st_dev, st_ino), `timeout` how many seconds to wait for a VF whose
    namespace was deleted. A device that is gone has nothing to restore. Raises CniError: TRY_AGAIN_LATER when
    the VF did not come back in time, DEVICE that says what could not be restored.
    """
    pf = device.physical_function
    if pf is None or pf.address != before["pf"]:
        return
    with Rtnl() as host:
        settings, pf_index = _pf_side(host, pf, device.vf_index)
        vf = Vf(
            device=device,
            pf=pf,
            pf_index=pf_index,
            index=device.vf_index,
            driver=device.driver,
            settings=settings,
            link=None,
        )
        if before["link"] is None or vf.driver in USERSPACE_DRIVERS:
            _restore_settings(host, vf, before)
            return
        link = _bring_home(host, vf, before["link"], where, timeout)
        link = _restore_link(host, link, before["link"])
        _restore_settings(host, vf, before)
        if link.mac != before["link"]["mac"]:  # refused while the PF had set another: now it has not
            link = _restore_link(host, link, before["link"])
        _verify_link(vf, link, before["link"])


def _bring_home(host: Rtnl, vf: Vf, before: dict[str, Any], where: tuple[str, int, int], timeout: float) -> Link:
    """The VF's netdev in the host's namespace, moved there when it is still in the pod's."""
    names = vf.device.netdevs
    link = host.link(names[0]) if names else None
    if link is not None:
        return link
    with netns.reopened(*where) as ns:
        if ns is not None and (moved := _move_out(host, vf, before, ns)) is not None:
            return moved
    # Its namespace is gone, or has just gone: the kernel brings a physical netdev back to the host's.
    back = rtnl.wait_for_device(vf.device.address, timeout=timeout)
    if back is None:
        raise CniError(
            Code.TRY_AGAIN_LATER, f"{vf.where}: its interface did not come back to the host within {timeout:.0f} s"
        )
    return back


def _move_out(host: Rtnl, vf: Vf, before: dict[str, Any], ns: netns.NetNs) -> Link | None:
    """Move the netdev from the pod to the host in one message, with its old name, MAC and MTU, down."""
    address = vf.device.address
    with Rtnl(netns_fd=ns.fd) as inside, netns.opened("/proc/self/ns/net") as home:
        link = inside.link_of_device(address)
        if link is None:
            return None
        mac = before["mac"] if before["mac"] != link.mac else None
        if mac is not None and vf.settings.trust is False:
            # While the PF has set its MAC, a VF takes back its own only when it is trusted (igb).
            with _refusal_is_no_error(f"{vf.where}: trust"):
                host.set_vf(vf.pf_index, vf.index, VfSettings(trust=True))
        try:
            inside.set_link(
                link.index, netns_fd=home.fd, name=before["name"], mac=mac, mtu=before["mtu"], up=before["up"]
            )
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                spare = "vf" + "".join(c for c in address if c.isalnum())
                log.warning("%s: its name %s is taken on the host, it is %s now", vf.where, before["name"], spare)
                inside.set_link(link.index, netns_fd=home.fd, name=spare)
            else:  # a refused MAC or MTU: it has moved all the same, and is looked at again at home
                log.info("%s: moving it home: %s", vf.where, error)
        return host.link_of_device(address)


class _refusal_is_no_error:  # noqa: N801 — reads as the context manager it is
    """Go on when the driver refuses what is only an attempt."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, NetlinkError):
            log.debug("%s: %s", self._what, error)
            return True
        return False


def _restore_link(host: Rtnl, link: Link, before: dict[str, Any]) -> Link:
    """Set what differs of name, MAC, MTU and state, each on its own so that one refusal stops no other."""
    if link.up and (link.name != before["name"] or not before["up"]):
        host.set_link(link.index, up=False)
    steps: list[dict[str, Any]] = []
    if link.name != before["name"]:
        steps.append({"name": before["name"]})
    if link.mac != before["mac"]:
        steps.append({"mac": before["mac"]})
    if link.mtu != before["mtu"]:
        steps.append({"mtu": before["mtu"]})
    if before["up"]:
        steps.append({"up": True})
    for step in steps:
        with _refusal_is_no_error(f"{link.name}: {step}"):
            host.set_link(link.index, **step)
    for name in link.altnames:
        if name not in before["altnames"] and name != before["name"]:
            with _refusal_is_no_error(f"{link.name}: altname {name}"):
                host.remove_altname(link.index, name)
    return host.link(link.index) or link if steps else link


def _restore_settings(host: Rtnl, vf: Vf, before: dict[str, Any]) -> None:
    """Make the PF's side what it was, in one message, else one setting at a time; then look whether it is."""
    wanted = VfSettings(**before["settings"])
    current, _ = _pf_side(host, vf.pf, vf.index)
    changes = _whole(wanted.differing(current), wanted, current)
    if not changes.items():
        return
    refused: dict[str, object] = {}
    try:
        host.set_vf(vf.pf_index, vf.index, changes)
    except NetlinkError:
        for part in _parts(changes):
            try:
                host.set_vf(vf.pf_index, vf.index, part)
            except NetlinkError as error:
                refused |= {key: error.strerror for key, _ in part.items()}
    now, _ = _pf_side(host, vf.pf, vf.index)
    left = dict(wanted.differing(now).items())
    if left.get("mac") == NO_MAC:
        log.warning("%s: the driver of the PF keeps the MAC %s that was set", vf.where, now.mac)
        del left["mac"]
    if left:
        told = ", ".join(
            f"{_KEYS[key]} is {getattr(now, key)}, was {value}" + (f" ({refused[key]})" if key in refused else "")
            for key, value in left.items()
        )
        raise CniError(Code.DEVICE, f"{vf.where}: not restored: {told}")


def _verify_link(vf: Vf, link: Link, before: dict[str, Any]) -> None:
    now = {"mac": link.mac, "mtu": link.mtu, "up": link.up}
    if link.name != before["name"]:
        log.warning("%s: is named %s now, was %s: that name is taken", vf.where, link.name, before["name"])
    left = [f"{key} is {now[key]}, was {before[key]}" for key in ("mac", "mtu", "up") if now[key] != before[key]]
    if left:
        raise CniError(Code.DEVICE, f"{vf.where}: not restored: {', '.join(left)}")


def drift(vf_settings: VfSettings, wanted: VfSettings) -> list[str]:
    """What differs of the settings that were asked for, as "vlan is 5, expected 100"."""
    return [
        f"{_KEYS[f.name]} is {getattr(vf_settings, f.name)}, expected {getattr(wanted, f.name)}"
        for f in fields(wanted)
        if getattr(wanted, f.name) is not None and getattr(wanted, f.name) != getattr(vf_settings, f.name)
    ]
