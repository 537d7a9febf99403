"""VFs of pools with `bind`: on their own driver while they are free, on another one for containers that need it."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.host import drivers, netns, rtnl, vfio
from wirespeed.host.files import unfinished
from wirespeed.host.pci import ADDRESS, PciDevice
from wirespeed.host.rtnl import Rtnl
from wirespeed.node import NodeConfig
from wirespeed.plugins.sriov import vf as vfs
from wirespeed.state.locks import device_lock

log = logging.getLogger(__name__)

_EVERY = 5000  # ms until it is asked again whether pods still have the VFs; the kubelet tells nobody by itself
_NOWHERE = "", netns.Identity(0, 0, 0)  # the interface of a VF that is handed over is in no pod
_LOCKED = 20.0  # seconds to wait for the device's lock; the kubelet gives PreStartContainer 30


@structs.prepared
class _Note(msgspec.Struct, frozen=True):
    """What a device was: its driver, driver_override and, of a VF, the rest; and the kubelet whose pod has it."""

    driver: str
    override: str
    kubelet: str
    before: dict[str, Any] | None


def bindings(where: NodeConfig) -> Bindings:
    """Those of the node, beside its journal."""
    state = Path(where.state).parent
    return Bindings(Path(where.sysfs), state / "bound", state / "locks", kubelet=where.kubelet)


class Bindings:
    """The VFs that are on another driver for a container, each a file in `folder`.

    It tells what the VF was before, and the folder of the kubelet whose pod has the VF: the agent of another one,
    such as a play's, knows nothing of this pod and leaves the VF alone for as long as that kubelet answers.
    `folder` lives as long as the bindings do: on tmpfs. `locks` are those of the CNI plugins; safe from any thread.
    """

    def __init__(self, sysfs: Path, folder: Path, locks: Path, *, kubelet: str) -> None:
        self._sysfs, self._folder, self._locks, self._kubelet = sysfs, folder, locks, kubelet

    def hand_over(self, address: str, driver: str) -> None:
        """Have the VF on the driver for a container that starts, reset; all that it was is noted first.

        One that a CNI plugin has attached by now is left as it is: on a user-space driver, or with its interface
        in the pod. Raises CniError: DEVICE, TRY_AGAIN_LATER when another request works on it, IO_FAILURE.
        """
        device = PciDevice(address, self._sysfs)
        with self._lock(address):
            if device.is_in_user_space or (device.driver and not device.netdevs):
                return
            if self._noted(address) is None:
                self._remember(device)
            drivers.bind(device, driver)
            drivers.reset(device)
        log.info("bound for a container", extra={"fields": {"device": address, "driver": driver}})

    def give_back(self, address: str) -> None:
        """Have the VF as it was, reset, if it was handed over.

        Raises CniError as `hand_over`, TRY_AGAIN_LATER also while a program has it open: the kernel would wait for
        its end where no deadline reaches.
        """
        if self._noted(address) is None:
            return
        device = PciDevice(address, self._sysfs)
        with self._lock(address):
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
        """The VFs that are on another driver for a container."""
        try:
            return sorted(name for name in os.listdir(self._folder) if ADDRESS.fullmatch(name))
        except FileNotFoundError:
            return []

    def follow(self, ended: int, given: Callable[[], Iterable[str]]) -> None:
        """Give back what is not `given` to a pod any more, until `ended` is readable, and once more then."""
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        is_last = False
        while not is_last:
            is_last = bool(poller.poll(_EVERY))
            for address in self._free(given):
                try:
                    self.give_back(address)
                except CniError as error:
                    log.error("%s", error.msg)  # noqa: TRY400 — it is tried again

    def _free(self, given: Callable[[], Iterable[str]]) -> list[str]:
        handed_over = self.handed_over()
        if not handed_over:
            return []
        try:
            kept = set(given())
        except CniError as error:
            log.debug("%s", error.msg)
            return []
        return [
            address
            for address in handed_over
            if address not in kept
            and not _other_kubelet(self._noted(address), self._kubelet)
            and not self._user_of(address)
        ]

    def _user_of(self, address: str) -> str:
        """The program that has its group open, which only one may; "" for none.

        The kubelet does not say it: one that starts lists no pod at first.
        """
        device = PciDevice(address, self._sysfs)
        if not device.iommu_group:
            return ""
        noiommu = device.attribute("iommu_group/name") == "vfio-noiommu"
        node = self._sysfs.parent / f"dev/vfio/{'noiommu-' if noiommu else ''}{device.iommu_group}"
        try:
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            # A container's /dev has the nodes that were there when it was created.
            return vfio.user_of(device)
        except OSError:
            return vfio.user_of(device) or "a process"
        return ""

    def _lock(self, address: str) -> AbstractContextManager[None]:
        return device_lock(self._locks, address, deadline=time.monotonic() + _LOCKED)

    def _noted(self, address: str) -> _Note | None:
        """None for a VF that is not handed over."""
        try:
            return msgspec.json.decode((self._folder / address).read_bytes(), type=_Note)
        except FileNotFoundError:
            return None

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
    """The folder of another kubelet that lives and whose pod has the VF; "" for none."""
    if note is None or note.kubelet == own:
        return ""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(f"{note.kubelet}/pod-resources/kubelet.sock")
        except OSError:
            return ""
    return note.kubelet


def _before(device: PciDevice) -> dict[str, Any] | None:
    """All that a VF is, its interface and what its PF holds for it; None for what is no VF. Raises CniError."""
    if device.physical_function is None:
        return None
    with rtnl.refusals(f"device {device.address}"), Rtnl() as host:
        return vfs.snapshot(vfs.find(host, device, rebinding=True))


def _put_back(device: PciDevice, note: _Note) -> None:
    """Make it what it was. Raises CniError."""
    if note.before is None:
        drivers.reset(device)
        drivers.put_back(device, note.driver, note.override)
        return
    with rtnl.refusals(f"device {device.address}"):
        vfs.restore(
            device,
            note.before,
            _NOWHERE,
            timeout=vfs.RETURN_TIMEOUT,
            override=note.override,
            reset=None,
            rdma={},
        )
