"""VFs of pools with `bind`: they keep their own driver while they are free, and get another one for a container."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.devices import drivers, netdev, snapshot, vdpa, vf, vfio
from wirespeed.devices.pci import ADDRESS, PciDevice
from wirespeed.devices.restore import restore
from wirespeed.devices.snapshot import Snapshot
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import as_device_error
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.node import NodeConfig
from wirespeed.state.journal import Journal
from wirespeed.state.locks import device_lock
from wirespeed.system.files import unfinished

log = logging.getLogger(__name__)

_EVERY = 5000  # ms between checks whether pods still have the VFs; the kubelet sends no notification
_NOWHERE = "", netns.Identity(0, 0, 0)  # the netdev of such a VF is in no pod
_LOCKED = 20.0  # seconds to wait for the device's lock
HAND_OVER = 20.0  # seconds to wait for locks and netdevs; the kubelet's timeout of PreStartContainer is 30
_ENTRY_TIMEOUT = 0.5  # seconds between the kernel's creation of the folder `net` and of the netdev's entry in it


@structs.prepared
class _Note(msgspec.Struct, frozen=True):
    """A device's original driver, driver_override and, for a VF, snapshot; and the folder of its pod's kubelet."""

    driver: str
    override: str
    kubelet: str
    before: Snapshot | None


def bindings(where: NodeConfig) -> Bindings:
    """Return the node's bindings; their folder is beside the journal."""
    state = Path(where.state).parent
    return Bindings(
        Path(where.sysfs), state / "bound", state / "locks", journal=Path(where.state), kubelet=where.kubelet
    )


class Bindings:
    """The VFs that are bound to another driver for a container; each has a file in `folder`. Thread-safe.

    The file contains the VF's original state, and the folder of the kubelet whose pod has the VF. An agent of
    another kubelet (as of `wirespeed play`) does not know this pod; it leaves the VF alone while that kubelet
    answers. `folder` must be on tmpfs, because a reboot undoes the bindings. `locks` and `journal` are those of
    the CNI plugins.
    """

    def __init__(self, sysfs: Path, folder: Path, locks: Path, *, journal: Path, kubelet: str) -> None:
        self._sysfs, self._folder, self._locks, self._kubelet = sysfs, folder, locks, kubelet
        self._journal = journal

    def hand_over(self, address: str, driver: str, *, deadline: float) -> None:
        """Bind the VF to the driver for a starting container and reset it; record its original state first.

        A VF that a CNI plugin has attached meanwhile stays as it is: it is on a user-space driver, or its netdev is
        in the pod. If its driver has not created the netdev yet, wait for it. Raises CniError: DEVICE,
        TRY_AGAIN_LATER if another request has its lock or there is no netdev until `deadline` (time.monotonic()),
        IO_FAILURE, DECODING_FAILURE if its original state was recorded and cannot be read.
        """
        device = PciDevice(address, self._sysfs)
        with device_lock(self._locks, address, deadline=deadline):
            if device.is_in_user_space or (device.driver and not self._has_netdev(device, deadline)):
                return
            if self._noted(address) is None:
                self._remember(device)
            drivers.bind(device, driver)
            drivers.reset(device)
        log.info("bound for a container", extra={"fields": {"device": address, "driver": driver}})

    def give_back(self, address: str) -> None:
        """Reset the VF and restore its original state, if it was handed over.

        Raises CniError as `hand_over`; also DEVICE if a pod of another kubelet has it, and TRY_AGAIN_LATER while a
        process has it open: unbinding would block in the kernel until that process ends, beyond any deadline.
        """
        if self._noted(address) is None:
            return
        device = PciDevice(address, self._sysfs)
        with device_lock(self._locks, address, deadline=time.monotonic() + _LOCKED):
            note = self._noted(address)
            if kubelet := _other_kubelet(note, self._kubelet):
                raise CniError(Code.DEVICE, f"device {address}: a pod of the kubelet in {kubelet} has it")
            if note is not None and device.exists:
                if user := self._user_of(address):
                    raise CniError(
                        Code.TRY_AGAIN_LATER,
                        f"device {address}: {user} has its vfio group open; expected nobody to use it",
                    )
                _put_back(device, note)
            (self._folder / address).unlink(missing_ok=True)
        log.info("as before the container had it", extra={"fields": {"device": address, "driver": device.driver}})

    def handed_over(self) -> list[str]:
        """Return the addresses of the VFs that are bound to another driver for a container."""
        try:
            return sorted(name for name in os.listdir(self._folder) if ADDRESS.fullmatch(name))
        except FileNotFoundError:
            return []

    def follow(self, ended: int, given: Callable[[], Iterable[str]]) -> None:
        """Restore VFs that are no longer `given` to a pod, until `ended` is readable, and once more then.

        What prevents it is retried, and logged once for each VF until it changes.
        """
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        is_last, problems = False, dict[str, str]()
        while not is_last:
            is_last = bool(poller.poll(_EVERY))
            before, problems = problems, {}
            for address in self._not_given(given):
                try:
                    if self._is_free(address):
                        self.give_back(address)
                except CniError as error:
                    problems[address] = error.msg
                    if before.get(address) != error.msg:
                        log.error("%s", error.msg)  # noqa: TRY400 — it is retried

    def _not_given(self, given: Callable[[], Iterable[str]]) -> list[str]:
        """Return the handed-over VFs that are not `given` to a pod; none if the kubelet does not answer."""
        handed_over = self.handed_over()
        if not handed_over:
            return []
        try:
            kept = set(given())
        except CniError as error:
            log.debug("%s", error.msg)
            return []
        return [address for address in handed_over if address not in kept]

    def _is_free(self, address: str) -> bool:
        """Whether no pod of another kubelet has the VF and no process has it open. Raises as `_noted`."""
        return not _other_kubelet(self._noted(address), self._kubelet) and not self._user_of(address)

    def _user_of(self, address: str) -> str:
        """Return the process that has the VF's vfio group open (only one can), "" for none.

        The kubelet's list is not enough: just after its start, it contains no pods.
        """
        device = PciDevice(address, self._sysfs)
        if not device.iommu_group:
            return ""
        node = self._sysfs.parent / f"dev/vfio/{'noiommu-' if device.is_noiommu else ''}{device.iommu_group}"
        try:
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            # In a container, /dev has only the nodes that existed when the container was created.
            return vfio.user_of(device)
        except OSError:
            return vfio.user_of(device) or "a process"
        return ""

    def _has_netdev(self, device: PciDevice, deadline: float) -> bool:
        """Whether the device has a netdev on the host, after waiting for one that is still being created.

        A VF with a vdpa device may have none of its own. Raises CniError(TRY_AGAIN_LATER).
        """
        is_folder_empty = device.has_netdevs_elsewhere_only
        if device.netdevs:
            return True
        left = max(0.0, deadline - time.monotonic())
        if is_folder_empty:
            # Its netdev is in a pod, or the kernel has created the folder `net` and not yet the entry in it.
            if self._is_attached(device.address):
                return False
            return wait_for(lambda _: device.netdevs or None, min(_ENTRY_TIMEOUT, left)) is not None
        if device.physical_function is None or vdpa.made_of(device):
            return False
        timeout = min(netdev.RETURN_TIMEOUT, left)
        if wait_for(lambda _: device.netdevs or None, timeout) is None:
            raise CniError(
                Code.TRY_AGAIN_LATER,
                f"device {device.address}: driver {device.driver} has created no network interface within "
                f"{timeout:.0f} s; expected one",
            )
        return True

    def _is_attached(self, address: str) -> bool:
        """Whether the journal has a claim of the device whose network namespace exists. Raises CniError."""
        if not self._journal.exists():
            return False
        with closing(Journal(self._journal)) as journal:
            owner = journal.owner(address)
        return owner is not None and netns.alive(owner.netns, owner.identity)

    def _noted(self, address: str) -> _Note | None:
        """Return the VF's note; None if it is not handed over. Raises CniError: DECODING_FAILURE, IO_FAILURE."""
        file = self._folder / address
        try:
            return msgspec.json.decode(file.read_bytes(), type=_Note)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"device {address}: {file}: {error.strerror}") from error
        except (msgspec.MsgspecError, RecursionError) as error:
            raise CniError(
                Code.DECODING_FAILURE,
                f"device {address}: {file}: expected the state of the device before it was bound: {error}",
            ) from error

    def _remember(self, device: PciDevice) -> None:
        note = _Note(device.driver, device.attribute("driver_override"), self._kubelet, _before(device))
        new = self._folder / unfinished(device.address)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(note))
            new.replace(self._folder / device.address)
        except OSError as error:
            raise CniError(Code.IO_FAILURE, f"device {device.address}: {new}: {error.strerror}") from error


def _other_kubelet(note: _Note | None, own: str) -> str:
    """Return the folder of another running kubelet whose pod has the VF, "" for none."""
    if note is None or note.kubelet == own:
        return ""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(f"{note.kubelet}/pod-resources/kubelet.sock")
        except OSError:
            return ""
    return note.kubelet


def _before(device: PciDevice) -> Snapshot | None:
    """Return the snapshot of a VF; None for a device that is not a VF. Raises CniError."""
    if device.physical_function is None:
        return None
    with as_device_error(f"device {device.address}"), Rtnl() as host:
        return snapshot.take(vf.find(host, device, rebinding=True))


def _put_back(device: PciDevice, note: _Note) -> None:
    """Reset the device and restore its original state. Raises CniError."""
    if note.before is None:
        drivers.reset(device)
        drivers.put_back(device, note.driver, note.override)
        return
    with as_device_error(f"device {device.address}"):
        restore(
            device,
            note.before,
            _NOWHERE,
            timeout=netdev.RETURN_TIMEOUT,
            override=note.override,
            reset=None,
            rdma={},
        )
