"""VFs of pools with `bind`: while free they keep their driver; for a container they are bound to another."""

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

from wirespeed import errors, structs
from wirespeed.devices import drivers, netdev, snapshot, vdpa, vf, vfio
from wirespeed.devices.pci import ADDRESS, PciDevice
from wirespeed.devices.restore import restore
from wirespeed.devices.snapshot import Snapshot
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import as_device_error
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.node import NodeConfig
from wirespeed.state.journal import Journal
from wirespeed.state.locks import device_lock
from wirespeed.system.files import write_atomically

log = logging.getLogger(__name__)

_CHECK_INTERVAL = 5000  # ms between checks whether pods still have the VFs; the kubelet does not notify
_LOCK_TIMEOUT = 20.0  # seconds to wait for the device's lock
HAND_OVER_TIMEOUT = 20.0  # seconds to wait for locks and netdevs; the kubelet's timeout of PreStartContainer is 30
_ENTRY_TIMEOUT = 0.5  # seconds between the kernel's creation of the folder `net` and of the netdev's entry in it


@structs.prepared
class _OriginalState(msgspec.Struct, frozen=True):
    """A device's original driver, driver_override and snapshot (None: no VF); the folder of its pod's kubelet."""

    driver: str
    override: str
    kubelet: str
    before: Snapshot | None


class Bindings:
    """The VFs that are bound to another driver for a container; each has a file beside the journal. Thread-safe.

    The file contains the VF's original state, and the folder of the kubelet whose pod has the VF. The agent of
    another kubelet (such as that of `wirespeed play`) does not know this pod; it leaves the VF alone while that
    kubelet answers. The files must be on tmpfs, because a reboot undoes the bindings.
    """

    def __init__(self, where: NodeConfig) -> None:
        self._sysfs, self._journal, self._kubelet = Path(where.sysfs), Path(where.state), where.kubelet
        self._folder, self._locks = self._journal.parent / "bound", self._journal.parent / "locks"

    def hand_over(self, address: str, driver: str, *, deadline: float) -> None:
        """Bind the VF to the driver for a starting container and reset it; record its original state first.

        A VF that a CNI plugin has attached is not changed: it is on a user-space driver, or its netdev is in the
        pod. If its driver has not created the netdev yet, wait for it. Raises Error: DEVICE, TRY_AGAIN if another
        request has its lock or there is no netdev before `deadline` (time.monotonic()), IO, INVALID_DATA if its
        recorded state cannot be read.
        """
        device = PciDevice(address, self._sysfs)
        with device_lock(self._locks, address, deadline=deadline):
            if device.is_in_user_space or (device.driver and not self._has_netdev(device, deadline)):
                return
            if self._read_original(address) is None:
                self._record_original(device)
            drivers.bind(device, driver)
            drivers.reset(device)
        log.info("bound for a container", extra={"fields": {"device": address, "driver": driver}})

    def take_back(self, address: str) -> None:
        """Reset the VF and restore its original state, if it was handed over.

        Raises Error as `hand_over`; also DEVICE if a pod of another kubelet has it, and TRY_AGAIN while a
        process has it open: unbinding would block in the kernel until that process ends, beyond any deadline.
        """
        if self._read_original(address) is None:
            return
        device, where = PciDevice(address, self._sysfs), Thing("device", address)
        with device_lock(self._locks, address, deadline=time.monotonic() + _LOCK_TIMEOUT):
            original = self._read_original(address)
            if kubelet := _other_kubelet(original, self._kubelet):
                raise Error(Kind.DEVICE, f"a pod of the kubelet in {kubelet} has it", where=where)
            if original is not None and device.exists:
                if user := self._user_of(device):
                    what = f"{user} has its vfio group open"
                    raise Error(Kind.TRY_AGAIN, what, where=where, expected="nobody to use it")
                _restore(device, original)
            (self._folder / address).unlink(missing_ok=True)
        log.info(
            "restored after a container had it", extra={"fields": {"device": address, "driver": device.driver}}
        )

    def handed_over(self) -> list[str]:
        """Return the addresses of the VFs that are bound to another driver for a container."""
        try:
            return sorted(name for name in os.listdir(self._folder) if ADDRESS.fullmatch(name))
        except FileNotFoundError:
            return []

    def follow(self, ended: int, allocated: Callable[[], Iterable[str]]) -> None:
        """Restore VFs that are no longer `allocated` to a pod, until `ended` is readable, and a last time then.

        Failures are retried; each is logged once for its VF until it changes.
        """
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        is_last, problems = False, dict[str, str]()
        while not is_last:
            is_last = bool(poller.poll(_CHECK_INTERVAL))
            before, problems = problems, {}
            for address in self._no_longer_allocated(allocated):
                try:
                    if self._is_free(address):
                        self.take_back(address)
                except Error as error:
                    problems[address] = error.msg
                    if before.get(address) != error.msg:
                        log.error("%s", error.msg)  # noqa: TRY400 — it is retried

    def _no_longer_allocated(self, allocated: Callable[[], Iterable[str]]) -> list[str]:
        """Return the handed-over VFs that are not `allocated` to a pod; none if the kubelet does not answer."""
        handed_over = self.handed_over()
        if not handed_over:
            return []
        try:
            kept = set(allocated())
        except Error as error:
            log.debug("%s", error.msg)
            return []
        return [address for address in handed_over if address not in kept]

    def _is_free(self, address: str) -> bool:
        """Whether no pod of another kubelet has the VF and no process has it open. Raises as `_read_original`."""
        device = PciDevice(address, self._sysfs)
        return not _other_kubelet(self._read_original(address), self._kubelet) and not self._user_of(device)

    def _user_of(self, device: PciDevice) -> str:
        """Return the process that has the VF's vfio group open (only one can), "" for none.

        The kubelet's list is not enough: just after its start, it contains no pods.
        """
        if not device.iommu_group:
            return ""
        node = self._sysfs.parent / f"dev/vfio/{'noiommu-' if device.is_noiommu else ''}{device.iommu_group}"
        try:
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            # A container's /dev has only the nodes that existed when the container was created.
            return vfio.user_of(device)
        except OSError:
            return vfio.user_of(device) or "a process"
        return ""

    def _has_netdev(self, device: PciDevice, deadline: float) -> bool:
        """Whether the device has a netdev on the host, after waiting for one that is still being created.

        A VF with a vdpa device may have none of its own. Raises Error(TRY_AGAIN).
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
        if device.physical_function is None or vdpa.find_on(device):
            return False
        timeout = min(netdev.RETURN_TIMEOUT, left)
        if wait_for(lambda _: device.netdevs or None, timeout) is None:
            what = f"driver {device.driver} has not created a network interface within {timeout:.0f} s"
            raise Error(Kind.TRY_AGAIN, what, where=Thing("device", device.address))
        return True

    def _is_attached(self, address: str) -> bool:
        """Whether the journal has a claim on the device by a pod that still runs. Raises Error."""
        if not self._journal.exists():
            return False
        with closing(Journal(self._journal)) as journal:
            owner = journal.owner(address)
        return owner is not None and netns.alive(owner.netns, owner.identity)

    def _read_original(self, address: str) -> _OriginalState | None:
        """Return the VF's note; None if it is not handed over. Raises Error: INVALID_DATA, IO."""
        file = self._folder / address
        where = (Thing("device", address), str(file))
        try:
            return msgspec.json.decode(file.read_bytes(), type=_OriginalState)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.as_error(error, file).within(where[0]) from error
        except (msgspec.MsgspecError, RecursionError) as error:
            expected = f"the state of the device before it was bound: {error}"
            raise Error(Kind.INVALID_DATA, where=where, expected=expected) from error

    def _record_original(self, device: PciDevice) -> None:
        original = _OriginalState(
            device.driver, device.attribute("driver_override"), self._kubelet, _snapshot(device)
        )
        file = self._folder / device.address
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(file, msgspec.json.encode(original), 0o644)
        except OSError as error:
            raise errors.as_error(error, file).within(Thing("device", device.address)) from error


def _other_kubelet(original: _OriginalState | None, own: str) -> str:
    """Return the folder of another running kubelet whose pod has the VF, "" for none."""
    if original is None or original.kubelet == own:
        return ""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(f"{original.kubelet}/pod-resources/kubelet.sock")
        except OSError:
            return ""
    return original.kubelet


def _snapshot(device: PciDevice) -> Snapshot | None:
    """Return the snapshot of a VF; None for a device that is not a VF. Raises Error."""
    if device.physical_function is None:
        return None
    with as_device_error(f"device {device.address}"), Rtnl() as host:
        return snapshot.take(vf.find(host, device, rebinding=True))


def _restore(device: PciDevice, original: _OriginalState) -> None:
    """Reset the device and restore its original state. Raises Error."""
    if original.before is None:
        drivers.reset(device)
        drivers.put_back(device, original.driver, original.override)
        return
    with as_device_error(f"device {device.address}"):
        restore(
            device,
            original.before,
            None,
            timeout=netdev.RETURN_TIMEOUT,
            override=original.override,
            reset=None,
            rdma={},
        )
