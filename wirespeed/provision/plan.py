"""Plans the changes from the current to the requested state of PFs, and makes them, or none of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wirespeed import steps
from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import drivers
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.settings import NO_MAC
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netlink.wait import MAC_NOT_YET, MAC_TIMEOUT, set_mac, wait_for
from wirespeed.node import NodeConfig
from wirespeed.provision import eswitch, facts, hold, udev, vdpa
from wirespeed.provision.facts import Pf, Vf
from wirespeed.provision.policy import Group, Wanted
from wirespeed.steps import Step, StepError, Undo

# Seconds for a VF's interface to appear after its driver is bound: igbvf waits 2 s per VF for a PF in reset.
NETDEV_TIMEOUT = 10.0
_KERNEL = "netdevice"
# Attributes of facts.Vf that are restored when a change is undone; the vdpa device is restored separately.
_KEPT = ("driver", "driver_override", "netdev", "up", "mac", "mtu")


@dataclass(frozen=True)
class Change:
    """One change: its description, the function that makes it, and the one that undoes it.

    `undo` is None if undoing an earlier change undoes this one too. `vfs` returns the addresses of the VFs that it
    changes, which must be unused then. The interfaces of `new` VFs may not have appeared yet.
    """

    what: str
    do: Callable[[], None]
    undo: Callable[[], None] | None = None
    vfs: Callable[[], Collection[str]] = tuple
    new: bool = False

    def step(self, config: NodeConfig) -> Step:
        """Return the step that makes the change while its VFs are locked and unused."""

        def do(undo: Undo) -> None:
            with _of_device(), hold.unused(self.vfs(), config, arriving=self.new):
                if self.undo is not None:
                    undo.push(self.what, partial(back, self.undo))
                self.do()

        def back(undo: Callable[[], None]) -> None:
            with _of_device(), hold.unused(self.vfs(), config, arriving=True):
                undo()

        return Step(self.what, do)


@dataclass(frozen=True)
class Plan:
    """The changes in order, and the reasons against them. If `refused` is not empty, none is made."""

    changes: Sequence[Change] = ()
    refused: Sequence[str] = ()


def make(wanted: Mapping[str, Wanted], pfs: Iterable[Pf], sysfs: Path = Path("/sys")) -> Plan:
    """Return the plan for the PFs in `wanted` (keys are addresses); other PFs are not changed."""
    changes: list[Change] = []
    refused: list[str] = []
    for pf in pfs:
        if pf.address in wanted:
            one = _Planner(pf, wanted[pf.address], sysfs)
            changes += one.changes()
            refused += one.refused
    return Plan(changes, refused)


def bind_plan(vfs: Iterable[tuple[Pf, Vf]], device_type: str, sysfs: Path = Path("/sys")) -> Plan:
    """Return the plan that binds VFs to a driver: "netdevice" for the kernel's, or a userspace driver's name."""
    changes: list[Change] = []
    refused: list[str] = []
    for pf, vf in vfs:
        planner = _Planner(pf, Wanted(num_vfs=len(pf.vfs)), sysfs)
        group = Group(resource="", policy="", numbers=frozenset({vf.index}), device_type=device_type)
        changes += planner.of_vf(vf.index, group)
        refused += planner.refused
    return Plan(changes, refused)


def carry_out(
    plan: Plan, config: NodeConfig, progress: Callable[[int, Step], None] = lambda _number, _step: None
) -> None:
    """Make the changes; `progress` is called before each. If one fails, it and those before it are undone.

    The plan may be outdated. Before each change of VFs, and before its undo, their users are therefore checked
    again with the VFs locked.
    Raises CniError: POLICY for a refused plan, else the failed step's, which names what could not be undone.
    """
    if plan.refused:
        raise CniError(Code.POLICY, "; ".join(plan.refused))
    try:
        steps.carry_out([change.step(config) for change in plan.changes], progress)
    except StepError as error:
        also = "" if error.left else "; what was done before it is taken back"
        raise CniError(error.code, f"{error.what}: {error.msg}{also}") from error


@contextmanager
def _of_device() -> Iterator[None]:
    """Turn an OSError, such as that of a write to sysfs, into a CniError(DEVICE)."""
    try:
        yield
    except OSError as error:
        raise CniError(Code.DEVICE, str(error)) from error


def _reason(error: CniError | OSError) -> str:
    return error.msg if isinstance(error, CniError) else str(error)


@dataclass
class _Planner:
    """Plans the changes of one PF."""

    pf: Pf
    wanted: Wanted
    sysfs: Path
    refused: list[str] = field(default_factory=list)

    @property
    def device(self) -> PciDevice:
        return PciDevice(self.pf.address, self.sysfs)

    def changes(self) -> Iterator[Change]:
        made_anew = False
        if self.wanted.externally_managed:
            self._check_external()
        else:
            yield from self._raise()
            made_anew = yield from self._make_vfs()
        if self.refused:
            return
        for index in range(self.wanted.num_vfs):
            for group in self.wanted.groups:
                if index in group.numbers:
                    yield from self.of_vf(index, group, made_anew=made_anew)

    # The PF

    def _check_external(self) -> None:
        """Refuse an externally managed PF unless it already has what is requested."""
        pf, wanted = self.pf, self.wanted
        if wanted.num_vfs > len(pf.vfs):
            self._refuse(f"externallyManaged: it has {len(pf.vfs)} VFs, {wanted.num_vfs} are asked for")
        if wanted.mtu > pf.mtu:
            self._refuse(f"externallyManaged: its MTU is {pf.mtu}, {wanted.mtu} is asked for")
        if wanted.eswitch and wanted.eswitch != pf.eswitch:
            self._refuse(f"externallyManaged: its eswitch mode is {pf.eswitch}, {wanted.eswitch} is asked for")

    def _refuse(self, why: str) -> None:
        self.refused.append(f"{self.pf.where}: {why}")

    def _raise(self) -> Iterator[Change]:
        """Set the PF up, since VFs of a PF that is down take seconds each to create. Raise its MTU if needed."""
        pf = self.pf
        if not pf.name:
            self._refuse("it has no interface on the host; expected its network driver to be bound")
            return
        if self.wanted.num_vfs and not pf.up:
            yield Change(
                f"{pf.where}: up", lambda: _set_link(pf.name, up=True), lambda: _set_link(pf.name, up=False)
            )
        if self.wanted.mtu > pf.mtu:
            yield Change(
                f"{pf.where}: MTU {self.wanted.mtu} (now {pf.mtu})",
                lambda: _set_link(pf.name, mtu=self.wanted.mtu),
                lambda: _set_link(pf.name, mtu=pf.mtu),
            )

    def _make_vfs(self) -> Generator[Change, None, bool]:
        """Change the number of VFs and the eswitch mode; return whether the VFs are recreated.

        The kernel changes the number of VFs only via 0, and the mode only without bound VFs. All VFs are removed.
        """
        pf, wanted = self.pf, self.wanted
        switches = wanted.eswitch not in ("", pf.eswitch)
        if wanted.num_vfs == len(pf.vfs) and not switches:
            return False
        used = [f"VF {vf.index} ({vf.address}): {vf.user}" for vf in pf.vfs if vf.user]
        if used:
            self._refuse(
                f"{len(pf.vfs)} VFs would be made anew as {wanted.num_vfs}, and are in use: {', '.join(used)}"
            )
            return False
        before = len(pf.vfs)
        if before:
            what = f"{pf.where}: remove its {before} VFs"
            yield Change(what, lambda: self._set_number(0), self._restore_vfs, self._addresses)
        if switches:
            yield Change(
                f"{pf.where}: eswitch mode {wanted.eswitch} (now {pf.eswitch})",
                lambda: eswitch.set_mode(self.device, wanted.eswitch),
                lambda: eswitch.set_mode(self.device, pf.eswitch),
            )
        if wanted.num_vfs:
            yield Change(
                f"{pf.where}: make {wanted.num_vfs} VFs",
                lambda: self._set_number(wanted.num_vfs),
                lambda: self._set_number(0),
                self._addresses,
            )
        return True

    def _addresses(self) -> list[str]:
        return [address for _, address in self.device.virtual_functions()]

    def _set_number(self, number: int) -> None:
        path = self.device.path / "sriov_numvfs"
        try:
            path.write_text(str(number))
        except OSError as error:
            raise CniError(Code.DEVICE, f"{path.name} {number}: {error.strerror}") from error
        made = [PciDevice(address, self.sysfs) for address in self._addresses()]
        if len(made) != number:
            raise CniError(Code.DEVICE, f"{path.name}: {len(made)} VFs are there after {number} was written")
        udev.settle([name for vf in made for name in vf.netdevs], timeout=NETDEV_TIMEOUT)

    def _restore_vfs(self) -> None:
        """Create as many VFs as before, each with its former state. Raises CniError that names what differs."""
        self._set_number(len(self.pf.vfs))
        left = []
        for vf in self.pf.vfs:
            for restore in (self._restore_vf, self._restore_vdpa):
                try:
                    restore(vf)
                except (CniError, OSError) as error:
                    left.append(_reason(error))
        if left:
            raise CniError(Code.DEVICE, "; ".join(left))

    def _restore_vf(self, before: Vf) -> None:
        """Restore a VF's state. Its parts are independent: if one fails, the others are still restored.

        The PF's settings are restored first, because drivers read them when they bind to the VF. Raises CniError
        that names the differences, without the vdpa device.
        """
        device = PciDevice(before.address, self.sysfs)
        failed = [_reason(error) for error in self._restore_settings(before)]
        parts: list[Callable[[], None]] = [lambda: drivers.put_back(device, before.driver, before.driver_override)]
        if before.mac:  # it had an interface
            parts += [
                lambda: _restore_link(device, name=before.netdev),
                lambda: _restore_link(device, mtu=before.mtu),
                lambda: _restore_link(device, mac=before.mac),
                lambda: _restore_link(device, up=before.up),
            ]
        for part in parts:
            try:
                part()
            except (CniError, OSError) as error:
                failed.append(_reason(error))
        left = self._differences(before)
        if left:
            reasons = f" ({'; '.join(failed)})" if failed else ""
            raise CniError(Code.DEVICE, f"VF {before.index} ({before.address}): {', '.join(left)}{reasons}")

    def _restore_settings(self, before: Vf) -> Iterator[OSError]:
        """Restore the PF's settings of the VF; yield the errors of the PF's driver."""
        with Rtnl() as host:
            pf = host.link(self.pf.name, vfs=True)
            if pf is None:
                return
            now = pf.vfs.get(before.index, VfSettings())
            for part in before.settings.parts():
                if part.differing(now).items():
                    try:
                        host.set_vf(pf.index, before.index, part)
                    except NetlinkError as error:
                        yield error

    def _differences(self, before: Vf) -> list[str]:
        """Return what differs from a VF's former state, such as "mtu is 1500, was 9000"."""
        now = next((vf for vf in facts.reread(self.pf, self.sysfs).vfs if vf.index == before.index), None)
        if now is None:
            return ["it is not there"]
        left = [
            f"{key} is {getattr(now, key) or 'none'}, was {getattr(before, key) or 'none'}"
            for key in _KEPT
            if getattr(now, key) != getattr(before, key)
        ]
        settings = before.settings.differing(now.settings)
        return left + [
            f"the PF's {key} is {getattr(now.settings, key)}, was {old}" for key, old in settings.items()
        ]

    def _restore_vdpa(self, before: Vf) -> None:
        """Create the VF's vdpa device if it no longer exists."""
        if not before.vdpa or VdpaDevice(before.vdpa, self.sysfs).exists:
            return
        if before.vdpa_type == "none":
            told = "was on no driver, which nobody can have it made with"
            raise CniError(
                Code.DEVICE, f"VF {before.index} ({before.address}): its vdpa device {before.vdpa} {told}"
            )
        vdpa.make(f"pci/{before.address}", before.vdpa, before.vdpa_type, self.sysfs)

    # One VF

    def of_vf(self, index: int, group: Group, *, made_anew: bool = False) -> Iterator[Change]:
        """Yield the changes that give VF number `index` the state that its group requests."""
        now = None if made_anew else next((vf for vf in self.pf.vfs if vf.index == index), None)
        what = f"{self.pf.where}: VF {index}" + (f" ({now.address})" if now else "")
        kernel = group.device_type == _KERNEL
        right = now is not None and (
            bool(now.driver) and not now.in_user_space if kernel else now.driver == group.device_type
        )
        mtu_right = not kernel or not group.mtu or (now is not None and now.mtu == group.mtu)
        vdpa_right = group.vdpa is None or (now.vdpa_type if now is not None else "") == group.vdpa
        if right and mtu_right and vdpa_right:
            return
        if now is not None and now.user:
            self._refuse(f"VF {index} ({now.address}) would be changed, and is in use: {now.user}")
            return
        if now is not None and now.vdpa and not (right and vdpa_right):  # unbinding the VF would delete it anyway
            yield self._no_vdpa_change(what, now)
        if not right and not (kernel and made_anew):  # the kernel binds new VFs to its own driver
            yield self._bind_change(what, index, group.device_type, now)
        if not mtu_right:
            yield self._mtu_change(what, index, group.mtu, now)
        if group.vdpa and not (right and vdpa_right):
            yield self._vdpa_change(what, index, group.vdpa, now)

    def _bind_change(self, what: str, index: int, device_type: str, now: Vf | None) -> Change:
        driver = "" if device_type == _KERNEL else device_type

        def do() -> None:
            device = self._vf(index)
            if driver:
                self._keep_mac(index, device)
            drivers.bind(device, driver)
            if not driver:
                self._take_mac(index, _netdev(device))

        told = f" (now {now.driver or 'none'})" if now else ""
        undo = (lambda: self._restore_vf(now)) if now else None
        return self._change(index, f"{what}: driver {driver or 'its own'}{told}", do, undo, new=now is None)

    def _mtu_change(self, what: str, index: int, mtu: int, now: Vf | None) -> Change:
        told = f" (now {now.mtu})" if now and now.mtu else ""
        return self._change(
            index,
            f"{what}: MTU {mtu}{told}",
            lambda: _set_link(_netdev(self._vf(index)).name, mtu=mtu),
            (lambda: _set_link(_netdev(self._vf(index)).name, mtu=now.mtu)) if now and now.mtu else None,
            new=now is None,
        )

    def _vdpa_change(self, what: str, index: int, kind: str, now: Vf | None) -> Change:
        def do() -> None:
            address = self._vf(index).address
            vdpa.make(f"pci/{address}", f"vdpa:{address}", kind, self.sysfs)

        def undo() -> None:
            vdpa.delete(f"vdpa:{self._vf(index).address}", self.sysfs)

        return self._change(index, f"{what}: vdpa device of type {kind}", do, undo, new=now is None)

    def _no_vdpa_change(self, what: str, now: Vf) -> Change:
        return self._change(
            now.index,
            f"{what}: remove its vdpa device {now.vdpa} (type {now.vdpa_type})",
            lambda: vdpa.delete(now.vdpa, self.sysfs),
            lambda: self._restore_vdpa(now),
        )

    def _change(
        self,
        index: int,
        text: str,
        do: Callable[[], None],
        undo: Callable[[], None] | None = None,
        *,
        new: bool = False,
    ) -> Change:
        """Return a change of one VF."""
        return Change(text, do, undo, lambda: [self._vf(index).address], new)

    def _vf(self, index: int) -> PciDevice:
        for number, address in self.device.virtual_functions():
            if number == index:
                return PciDevice(address, self.sysfs)
        raise CniError(Code.DEVICE, f"{self.pf.where}: there is no VF {index}")

    def _keep_mac(self, index: int, device: PciDevice) -> None:
        """Set the VF's MAC as its admin MAC in the PF, so that an application which gets the VF finds that MAC."""
        name = device.own_netdev
        with Rtnl() as host:
            link = host.link(name) if name else None
            pf = host.link(self.pf.name, vfs=True)
            if link is None or pf is None or not pf.vfs:
                return
            # Some drivers (igb) report the VF's own MAC as its admin MAC.
            if pf.vf(index).mac in (NO_MAC, link.mac):
                host.set_vf(pf.index, index, VfSettings(mac=link.mac))

    def _take_mac(self, index: int, link: Link) -> None:
        """Set the MAC of the VF's interface to its admin MAC, the only one that the PF lets it use.

        A driver that finds the VF still in reset generates a MAC (igbvf).
        """
        with Rtnl() as host:
            pf = host.link(self.pf.name, vfs=True)
            mac = pf.vf(index).mac if pf is not None and pf.vfs else None
            if mac not in (None, NO_MAC, link.mac):
                host.set_link(link.index, mac=mac)


def _netdev(device: PciDevice) -> Link:
    link = wait_for(lambda rtnl: rtnl.link_of_device(device.address), NETDEV_TIMEOUT)
    if link is None:
        raise CniError(
            Code.DEVICE,
            f"VF {device.address}: driver {device.driver or 'none'}, no interface within {NETDEV_TIMEOUT:.0f} s",
        )
    return link


def _restore_link(
    device: PciDevice,
    *,
    name: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    up: bool | None = None,
) -> None:
    """Restore attributes of a VF's interface. A driver that finds the VF in reset generates a MAC."""
    udev.settle([_netdev(device).name], timeout=NETDEV_TIMEOUT)
    link = _netdev(device)
    if mac is not None:
        set_mac(link.index, mac, retry_on=MAC_NOT_YET, timeout=MAC_TIMEOUT)
    elif name not in {None, link.name} or mtu not in {None, link.mtu} or up not in {None, link.up}:
        with Rtnl() as host:
            host.set_link(link.index, name=name, mtu=mtu, up=up)


def _set_link(name: str, *, up: bool | None = None, mtu: int | None = None) -> None:
    with Rtnl() as host:
        link = host.link(name)
        if link is None:
            raise CniError(Code.INTERFACE, f"interface {name} is gone")
        host.set_link(link.index, up=up, mtu=mtu)
