"""Plans the changes from the current to the requested state of PFs, and makes all or none of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wirespeed import errors, steps
from wirespeed.devices import drivers, netdev, settings
from wirespeed.devices.netdev import RETURN_TIMEOUT
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.restore import restore
from wirespeed.devices.settings import NO_MAC
from wirespeed.devices.vdpa import VdpaDevice
from wirespeed.devices.vf import read_without_netdev
from wirespeed.errors import CombinedError, Error, Kind
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.node import NodeConfig
from wirespeed.provision import eswitch, hold, udev, vdpa
from wirespeed.provision.facts import Pf, VfFacts
from wirespeed.provision.policy import Group, Wanted
from wirespeed.steps import Step, StepError, Undo

_NETDEVICE = "netdevice"


@dataclass(frozen=True)
class Change:
    """One change: its description, the function that makes it, and the one that undoes it.

    `undo` is None if undoing an earlier change undoes this one too. `vfs` returns the addresses of the VFs to
    change; nobody may use them then. The interfaces of `new` VFs may not exist yet.
    """

    what: str
    do: Callable[[], None]
    undo: Callable[[], None] | None = None
    vfs: Callable[[], Collection[str]] = tuple
    new: bool = False

    def step(self, config: NodeConfig) -> Step:
        """Return the step that makes the change while its VFs are locked and unused."""

        def do(undo: Undo) -> None:
            with _as_device_error(), hold.lock_unused(self.vfs(), config, netdevs_pending=self.new):
                if self.undo is not None:
                    undo.push(self.what, partial(back, self.undo))
                self.do()

        def back(undo: Callable[[], None]) -> None:
            with _as_device_error(), hold.lock_unused(self.vfs(), config, netdevs_pending=True):
                undo()

        return Step(self.what, do)


@dataclass(frozen=True)
class Plan:
    """The changes in order, and the errors that prevent them. If `refused` is not empty, no change is made."""

    changes: Sequence[Change] = ()
    refused: Sequence[Error] = ()


def make(wanted: Mapping[str, Wanted], pfs: Iterable[Pf], sysfs: Path = Path("/sys")) -> Plan:
    """Return the plan for the PFs in `wanted` (keys are addresses); other PFs are not changed."""
    planners = [_Planner(pf, wanted[pf.address], sysfs) for pf in pfs if pf.address in wanted]
    changes = [change for planner in planners for change in planner.changes()]
    return Plan(changes, [error for planner in planners for error in planner.refused])


def bind_plan(vfs: Iterable[tuple[Pf, VfFacts]], device_type: str, sysfs: Path = Path("/sys")) -> Plan:
    """Return the plan that binds VFs to a driver: "netdevice" for the kernel's, or a userspace driver's name."""
    changes: list[Change] = []
    refused: list[Error] = []
    for pf, vf in vfs:
        planner = _Planner(pf, Wanted(num_vfs=len(pf.vfs)), sysfs)
        index = vf.state.index
        group = Group(resource="", numbers=frozenset({index}), device_type=device_type)
        changes += planner.vf_changes(index, group)
        refused += planner.refused
    return Plan(changes, refused)


def carry_out(
    plan: Plan, config: NodeConfig, progress: Callable[[int, Step], None] = lambda _number, _step: None
) -> None:
    """Make the changes; `progress` is called before each. If one fails, it and those before it are undone.

    The plan may be outdated: before each change of VFs or its undo, they are locked and their users checked again.
    Raises Error: POLICY for a refused plan, else the error of the failed step, with what could not be undone.
    """
    if plan.refused:
        raise CombinedError(plan.refused, between="; ")
    try:
        steps.carry_out([change.step(config) for change in plan.changes], progress)
    except StepError as error:
        failure = error if error.left else error.with_hint("the changes before it were undone")
        raise failure.within(error.step) from error


@contextmanager
def _as_device_error() -> Iterator[None]:
    """Turn an OSError, such as that of a write to sysfs, into an Error(DEVICE)."""
    try:
        yield
    except OSError as error:
        raise errors.as_error(error).of_kind(Kind.DEVICE) from error


@dataclass
class _Planner:
    """Plans the changes of one PF."""

    pf: Pf
    wanted: Wanted
    sysfs: Path
    refused: list[Error] = field(default_factory=list)

    @property
    def device(self) -> PciDevice:
        return PciDevice(self.pf.address, self.sysfs)

    def changes(self) -> Iterator[Change]:
        recreated = False
        if self.wanted.externally_managed:
            self._check_external()
        else:
            yield from self._pf_changes()
            recreated = yield from self._vf_number_changes()
        if self.refused:
            return
        for index in range(self.wanted.num_vfs):
            for group in self.wanted.groups:
                if index in group.numbers:
                    yield from self.vf_changes(index, group, recreated=recreated)

    # The PF

    def _check_external(self) -> None:
        """Refuse an externally managed PF unless it already has what is requested."""
        pf, wanted = self.pf, self.wanted
        why = "it is externally managed"
        if wanted.num_vfs > len(pf.vfs):
            self._refuse(why, expected=f"at least {wanted.num_vfs} VFs", got=len(pf.vfs))
        if wanted.mtu > pf.mtu:
            self._refuse(why, expected=f"an MTU of at least {wanted.mtu}", got=pf.mtu)
        if wanted.eswitch and wanted.eswitch != pf.eswitch:
            self._refuse(why, expected=f"eswitch mode {wanted.eswitch}", got=pf.eswitch)

    def _refuse(self, why: str, **more: Any) -> None:
        self.refused.append(Error(Kind.POLICY, why, where=self.pf.where, **more))

    def _pf_changes(self) -> Iterator[Change]:
        """Set the PF up, since VFs of a PF that is down take seconds each to create. Raise its MTU if needed."""
        pf = self.pf
        if not pf.name:
            self._refuse("it has no interface on the host", expected="its network driver to be bound")
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

    def _vf_number_changes(self) -> Generator[Change, None, bool]:
        """Change the number of VFs and the eswitch mode; return whether the VFs are recreated.

        The kernel changes the number only from or to 0, and the mode only without bound VFs: all are removed first.
        """
        pf, wanted = self.pf, self.wanted
        switches = wanted.eswitch not in ("", pf.eswitch)
        if wanted.num_vfs == len(pf.vfs) and not switches:
            return False
        before = len(pf.vfs)
        used = [f"{vf.where}: {vf.user}" for vf in pf.vfs if vf.user]
        if used:
            self._refuse(
                f"all its {before} VFs would be removed to create {wanted.num_vfs}; in use: {', '.join(used)}"
            )
            return False
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
            raise Error(Kind.DEVICE, str(error.strerror), where=f"{path.name} {number}") from error
        vfs = [PciDevice(address, self.sysfs) for address in self._addresses()]
        if len(vfs) != number:
            raise Error(Kind.DEVICE, where=path.name, expected=f"{number} VFs after it was written", got=len(vfs))
        udev.settle([name for vf in vfs for name in vf.netdevs], timeout=RETURN_TIMEOUT)

    def _restore_vfs(self) -> None:
        """Create as many VFs as before, each with its former state. Raises Error that names what differs."""
        self._set_number(len(self.pf.vfs))
        parts = (self._restore_vf, self._restore_vdpa)
        errors.run_all([partial(restore_part, vf) for vf in self.pf.vfs for restore_part in parts])

    def _restore_vf(self, before: VfFacts) -> None:
        """Restore a VF, without its vdpa device. Raises NetlinkError, or Error that names what is not restored.

        Its settings on the PF are restored first, because drivers read them when they bind to the VF.
        """
        with suppress(Error, OSError), Rtnl() as host:  # `restore` tries again and reports what is refused
            settings.put_back(host, read_without_netdev(host, before.device, self.device), before.state.settings)
        restore(
            before.device,
            before.state,
            None,
            timeout=RETURN_TIMEOUT,
            override=before.driver_override,
            on_host_netdev=lambda link: udev.settle([link.name], timeout=RETURN_TIMEOUT),
            rdma={},
        )

    def _restore_vdpa(self, before: VfFacts) -> None:
        """Create the VF's vdpa device if it no longer exists. Raises Error(DEVICE)."""
        vdpa_device = before.vdpa
        if vdpa_device is None or VdpaDevice(vdpa_device.name, self.sysfs).exists:
            return
        if not vdpa_device.driver:
            lost = f"its vdpa device {vdpa_device.name} had no driver, and cannot be created again without one"
            raise Error(Kind.DEVICE, lost, where=before.where)
        vdpa.create(f"pci/{before.device.address}", vdpa_device.name, vdpa_device.driver, self.sysfs)

    # One VF

    def vf_changes(self, index: int, group: Group, *, recreated: bool = False) -> Iterator[Change]:
        """Yield the changes that give VF number `index` the state that its group requests."""
        now = None if recreated else next((vf for vf in self.pf.vfs if vf.state.index == index), None)
        driver, link = (now.state.driver, now.state.link) if now else ("", None)
        kernel = group.device_type == _NETDEVICE
        right = now is not None and (
            driver != "" and not now.device.is_in_user_space if kernel else driver == group.device_type
        )
        mtu_right = not kernel or group.mtu in (0, link and link.mtu)
        vdpa_right = group.vdpa is None or (now.vdpa_type if now else "") == group.vdpa
        if right and mtu_right and vdpa_right:
            return
        if now and now.user:
            self._refuse(f"{now.where} would be changed, and is in use: {now.user}")
            return
        what = f"{self.pf.where}: {now.where if now else f'VF {index}'}"
        change = partial(Change, vfs=lambda: [self._vf(index).address], new=now is None)
        if now and now.vdpa and not (right and vdpa_right):  # unbinding the VF would delete it anyway
            text = f"{what}: remove its vdpa device {now.vdpa.name} (type {now.vdpa_type})"
            yield change(text, partial(vdpa.delete, now.vdpa.name, self.sysfs), partial(self._restore_vdpa, now))
        if not right and not (kernel and recreated):  # the kernel binds new VFs to its network driver
            text = f"{what}: driver {'its own' if kernel else group.device_type}"
            text += f" (now {driver or 'none'})" if now else ""
            undo = partial(self._restore_vf, now) if now else None
            yield change(text, lambda: self._bind(index, group.device_type), undo)
        if not mtu_right:
            text = f"{what}: MTU {group.mtu}" + (f" (now {link.mtu})" if link else "")
            undo_mtu = partial(self._set_mtu, index, link.mtu) if link else None
            yield change(text, lambda: self._set_mtu(index, group.mtu), undo_mtu)
        if (kind := group.vdpa) and not (right and vdpa_right):
            text = f"{what}: vdpa device of type {kind}"
            yield change(text, lambda: self._create_vdpa(index, kind), lambda: self._delete_vdpa(index))

    def _vf(self, index: int) -> PciDevice:
        if address := self.device.virtual_function(index):
            return PciDevice(address, self.sysfs)
        raise Error(Kind.DEVICE, f"there is no VF {index}", where=self.pf.where)

    def _bind(self, index: int, device_type: str) -> None:
        device = self._vf(index)
        if device_type == _NETDEVICE:
            drivers.bind(device, "")
            self._adopt_admin_mac(device)
        else:
            self._set_admin_mac(device)
            drivers.bind(device, device_type)

    def _set_mtu(self, index: int, mtu: int | None) -> None:
        _set_link(_netdev(self._vf(index)).name, mtu=mtu)

    def _create_vdpa(self, index: int, kind: str) -> None:
        address = self._vf(index).address
        vdpa.create(f"pci/{address}", f"vdpa:{address}", kind, self.sysfs)

    def _delete_vdpa(self, index: int) -> None:
        vdpa.delete(f"vdpa:{self._vf(index).address}", self.sysfs)

    def _set_admin_mac(self, device: PciDevice) -> None:
        """Set the VF's MAC as its admin MAC in the PF, so that an application which gets the VF finds that MAC."""
        with Rtnl() as host:
            link, vf = netdev.on_host(host, device), read_without_netdev(host, device, self.device)
            # Some drivers (igb) report the VF's own MAC as its admin MAC.
            if link is not None and vf.settings.mac in (NO_MAC, link.mac):
                host.set_vf(vf.pf_index, vf.index, VfSettings(mac=link.mac))

    def _adopt_admin_mac(self, device: PciDevice) -> None:
        """Set the MAC of the VF's interface to its admin MAC, the only one that the PF lets it use.

        A driver that finds the VF still in reset generates a MAC (igbvf).
        """
        link = _netdev(device)
        with Rtnl() as host:
            mac = read_without_netdev(host, device, self.device).settings.mac
            if mac not in (None, NO_MAC, link.mac):
                host.set_link(link.index, mac=mac)


def _netdev(device: PciDevice) -> Link:
    """Wait until the VF has an interface on the host, and return it. Raises Error(DEVICE)."""
    link = wait_for(lambda host: netdev.on_host(host, device), RETURN_TIMEOUT)
    if link is None:
        fault = f"driver {device.driver or 'none'}, no interface within {RETURN_TIMEOUT:.0f} s"
        raise Error(Kind.DEVICE, fault, where=f"VF {device.address}")
    return link


def _set_link(name: str, *, up: bool | None = None, mtu: int | None = None) -> None:
    with Rtnl() as host:
        link = host.link(name)
        if link is None:
            raise Error(Kind.INTERFACE, f"interface {name} is gone")
        host.set_link(link.index, up=up, mtu=mtu)
