"""Pools with `bind`, whose VFs are bound to the driver that their container needs. The kernel is a fake."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from tests.node.calling import until
from tests.node.deviceplugins import BY_PF, OTHER_VFS, PF, VFS, Place, allocate, call, standing, wait_listed
from wirespeed.deviceplugin import binding
from wirespeed.deviceplugin.plugin import Plugin
from wirespeed.devices.pci import PciDevice
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.state.journal import DeviceClaim, Journal

T = TypeVar("T")

POOL = {"resourceName": "one", "bind": True, "selectors": {"drivers": ["iavf"], "pfNames": ["ens1f0"]}}


class Kernel:
    """The effect of the kernel's bind and reset on the fake sysfs; `done` lists the calls in order."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.done: list[str] = []

    def bind(self, device: PciDevice, driver: str) -> None:
        if device.driver == driver:
            return
        self.done.append(f"bind {device.address} {driver}")
        name = f"ens1f0v{VFS.index(device.address)}"
        if driver in {"vfio-pci", "igb_uio"}:
            self.place.sysfs.drop_interface(name)
        else:
            self.place.sysfs.interface(device.address, name)
        self.place.sysfs.bind(device.address, driver)

    def reset(self, device: PciDevice) -> None:
        self.done.append(f"reset {device.address}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with standing(tmp_path) as place:
        yield place


@pytest.fixture
def kernel(place: Place, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(place)
    monkeypatch.setattr("wirespeed.devices.drivers.bind", kernel.bind)
    monkeypatch.setattr("wirespeed.devices.drivers.reset", kernel.reset)
    monkeypatch.setattr(binding, "_snapshot", lambda _: None)  # the full state needs a real kernel: see tests/lab
    monkeypatch.setattr(binding, "_CHECK_INTERVAL", 20)
    return kernel


def more(place: Place) -> dict[str, Any]:
    return {"cdi": True, "cdi_dir": str(place.folder / "cdi"), "state": str(place.folder / "run/state.db")}


def without_interface(place: Place, address: str, name: str) -> None:
    """Leave the VF as it is before its driver has created its interface."""
    place.sysfs.drop_interface(name)
    (place.sysfs.path(address) / "net").rmdir()


def start(place: Place, *ids: str) -> None:
    call(place.sockets / "intel.com_one.sock", "PreStartContainer", dp.PreStartContainerRequest(devices_ids=ids))


def edits(place: Place, address: str) -> dict[str, Any]:
    spec = json.loads((place.folder / "cdi/wirespeed-dp-intel.com-net-pci-one.json").read_text())
    return next(device["containerEdits"] for device in spec["devices"] if device["name"] == address)


def bound(place: Place) -> list[str]:
    folder = place.folder / "run/bound"
    return sorted(os.listdir(folder)) if folder.exists() else []


def driver(place: Place, address: str) -> str:
    return PciDevice(address, place.sysfs.root).driver


def test_vf_without_a_network_is_bound_at_the_containers_start_and_its_own_again_when_free(
    place: Place, kernel: Kernel
) -> None:
    with place.running(POOL, **more(place)) as plugin:
        place.kubelet.wait_ids("intel.com/one", VFS)
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        assert [device.name for device in answer.cdi_devices] == [f"intel.com/net-pci-one={VFS[0]}"]
        assert "deviceNodes" not in edits(place, VFS[0])
        start(place, VFS[0])
        group = PciDevice(VFS[0], place.sysfs.root).iommu_group
        assert [node["path"] for node in edits(place, VFS[0])["deviceNodes"]] == [
            "/dev/vfio/vfio",
            f"/dev/vfio/{group}",
        ]
        assert bound(place) == [VFS[0]]
        plugin.request_read()
        start(place, VFS[0])  # another container of the pod, or a restart of the same one
        assert kernel.done == [f"bind {VFS[0]} vfio-pci", f"reset {VFS[0]}"]
        assert place.kubelet.ids("intel.com/one") == VFS
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [], "given back")
        assert kernel.done[2:] == [f"reset {VFS[0]}", f"bind {VFS[0]} iavf"]
        assert place.kubelet.ids("intel.com/one") == VFS


def test_vf_whose_interface_is_in_the_pod_stays_as_it_is(place: Place, kernel: Kernel) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        place.sysfs.drop_interface("ens1f0v0")  # as the SR-IOV plugin's ADD does
        start(place, VFS[0])
        assert "deviceNodes" not in edits(place, VFS[0])
    assert kernel.done == []


def test_vf_whose_driver_has_no_interface_yet_is_bound_once_it_has_one(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_after_a_look(look: Callable[[Any], T | None], timeout: float) -> T | None:
        assert timeout > 0
        assert look(None) is None
        assert kernel.done == []
        place.sysfs.interface(VFS[0], "ens1f0v0")
        return look(None)

    monkeypatch.setattr("wirespeed.deviceplugin.binding.wait_for", made_after_a_look)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        without_interface(place, VFS[0], "ens1f0v0")
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        start(place, VFS[0])
        assert kernel.done == [f"bind {VFS[0]} vfio-pci", f"reset {VFS[0]}"]


def test_vf_whose_interface_appears_just_after_its_folder_is_bound(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_after_a_look(look: Callable[[Any], T | None], timeout: float) -> T | None:
        assert 0 < timeout < 1
        assert look(None) is None
        place.sysfs.interface(VFS[0], "ens1f0v0")
        return look(None)

    monkeypatch.setattr("wirespeed.deviceplugin.binding.wait_for", made_after_a_look)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.sysfs.drop_interface("ens1f0v0")  # the folder `net` stays, empty
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        start(place, VFS[0])
        assert kernel.done == [f"bind {VFS[0]} vfio-pci", f"reset {VFS[0]}"]


@pytest.mark.parametrize("alive", [True, False], ids=["netns there", "netns gone"])
def test_claim_in_the_journal_says_that_a_vf_is_attached_while_its_pod_exists(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("wirespeed.deviceplugin.binding.wait_for", lambda _, timeout: waited.append(timeout))
    with netns.opened("/proc/self/ns/net") as ns:
        identity = ns.identity if alive else netns.Identity(0, 0, 0)
    claim = DeviceClaim(
        device=VFS[0],
        plugin="sriov",
        container="pod",
        ifname="net1",
        netns="/proc/self/ns/net",
        identity=identity,
    )
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        with closing(Journal(Path(more(place)["state"]))) as journal:
            journal.claim(claim)
        place.sysfs.drop_interface("ens1f0v0")
        start(place, VFS[0])
    assert len(waited) == (0 if alive else 1)
    assert kernel.done == []


def test_lock_and_interface_are_waited_for_until_one_deadline(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("wirespeed.deviceplugin.binding.wait_for", lambda _, timeout: waited.append(timeout))
    without_interface(place, VFS[0], "ens1f0v0")
    bindings = binding.Bindings(place.config(POOL, **more(place)))
    for left in (3.0, -1.0):
        with pytest.raises(Error):
            bindings.hand_over(VFS[0], "vfio-pci", deadline=time.monotonic() + left)
    assert 0 < waited[0] <= 3
    assert waited[1] == 0


def test_devices_of_one_container_are_bound_until_one_deadline(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(binding.Bindings, "hand_over", lambda *_, deadline: deadlines.append(deadline))
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 2)
        start(place, *VFS[:2])
    assert len(deadlines) == 2
    assert deadlines[0] == deadlines[1] <= time.monotonic() + binding.HAND_OVER_TIMEOUT


def test_vf_whose_driver_creates_no_interface_in_time_is_refused(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.deviceplugin.binding.wait_for", lambda *_: None)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        without_interface(place, VFS[0], "ens1f0v0")
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        with pytest.raises(grpc.RpcError) as caught:
            start(place, VFS[0])
        assert caught.value.details() == (
            f"device {VFS[0]}: driver iavf has not created a network interface within 10 s"
        )
    assert kernel.done == []


def test_vf_that_is_used_by_its_vdpa_device_stays_as_it_is(place: Place, kernel: Kernel) -> None:
    without_interface(place, VFS[0], "ens1f0v0")
    place.sysfs.vdpa(place.sysfs.path(VFS[0]), "vdpa0", "virtio_vdpa", interface="eth5")
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        start(place, VFS[0])
    assert kernel.done == []


def test_vf_that_the_network_has_bound_comes_with_its_nodes_and_is_the_networks_to_give_back(
    place: Place, kernel: Kernel
) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        place.sysfs.bind(VFS[0], "vfio-pci")
        start(place, VFS[0])
        assert "deviceNodes" in edits(place, VFS[0])
        assert bound(place) == []
    assert kernel.done == []


def test_vf_is_its_own_again_before_it_is_allocated_anew(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_CHECK_INTERVAL", 3_600_000)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        allocate(place, VFS[1])
        start(place, VFS[1])
        assert driver(place, VFS[1]) == "vfio-pci"
        allocate(place, VFS[1])
        assert driver(place, VFS[1]) == "iavf"
    assert kernel.done[2:] == [f"reset {VFS[1]}", f"bind {VFS[1]} iavf"]


def test_plugin_that_starts_again_gives_back_what_it_bound(place: Place, kernel: Kernel) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        start(place, VFS[0])
    assert driver(place, VFS[0]) == "vfio-pci"
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        assert bound(place) == [VFS[0]]
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [], "given back")
    assert driver(place, VFS[0]) == "iavf"


def test_plugin_that_ends_gives_back_what_is_free_by_then(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_CHECK_INTERVAL", 3_600_000)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        for pod in ("ends", "stays"):
            place.kubelet.allocate("default", pod, "app", "intel.com/one", 1)
            place.kubelet.pre_start("default", pod, "app")
        [ended], [stayed] = (given.devices for given in place.kubelet.allocations())
        place.kubelet.free("default", "ends")
    assert (driver(place, ended), driver(place, stayed)) == ("iavf", "vfio-pci")


def test_vf_of_another_kubelets_pod_is_left_alone_while_that_kubelet_lives(place: Place, kernel: Kernel) -> None:
    other = binding.Bindings(place.config(POOL, **more(place), kubelet=str(place.folder / "other")))
    ended, ender = socket.socketpair()
    ender.close()  # so that `follow` looks only once
    with ended, place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        place.kubelet.pre_start("default", "pod", "app")
        with pytest.raises(Error) as refused:
            other.take_back(VFS[0])
        assert refused.value.msg == f"device {VFS[0]}: a pod of the kubelet in {place.kubelet.folder} has it"
        other.follow(ended.fileno(), tuple)
        assert driver(place, VFS[0]) == "vfio-pci"
        place.kubelet.stop()
        other.follow(ended.fileno(), tuple)
        assert driver(place, VFS[0]) == "iavf"


def test_vf_whose_note_is_damaged_stays_bound_and_the_others_are_given_back(place: Place, kernel: Kernel) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 2)
        start(place, VFS[0], VFS[1])
        note = place.folder / "run/bound" / VFS[0]
        whole = note.read_bytes()
        note.write_text("{")
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [VFS[0]], "the other is given back")
        with pytest.raises(grpc.RpcError) as caught:
            allocate(place, VFS[0])
        expected = f"device {VFS[0]}: {note}: expected the state of the device before it was bound: "
        assert str(caught.value.details()).startswith(expected)
        assert (driver(place, VFS[0]), driver(place, VFS[1])) == ("vfio-pci", "iavf")
        note.write_bytes(whole)
        until(lambda: bound(place) == [], "given back")
    assert driver(place, VFS[0]) == "iavf"


def test_damaged_note_is_logged_once_until_it_is_damaged_otherwise(
    place: Place, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    note = place.folder / "run/bound" / VFS[0]
    note.parent.mkdir(parents=True)
    note.write_text("{")
    ended, ender = socket.socketpair()
    asked: list[int] = []

    def given() -> list[str]:
        asked.append(len(caplog.records))
        if len(asked) == 3:
            note.write_text("[]")
        if len(asked) == 5:
            ender.close()
        return []

    with ended:
        binding.Bindings(place.config(POOL, **more(place))).follow(ended.fileno(), given)
    assert asked == [0, 1, 1, 2, 2, 2]
    assert all(str(note) in message for message in caplog.messages)


def test_vf_that_a_program_still_has_open_is_not_allocated(place: Place, kernel: Kernel) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        allocate(place, VFS[0])
        # Before it is bound, because it is given back as soon as no pod of the kubelet has it.
        node = place.folder / "dev/vfio" / PciDevice(VFS[0], place.sysfs.root).iommu_group
        node.mkdir(parents=True)  # a directory cannot be opened for writing, like a busy group
        start(place, VFS[0])
        with pytest.raises(grpc.RpcError) as caught:
            allocate(place, VFS[0])
        assert caught.value.details() == (
            f"device {VFS[0]}: a process has its vfio group open; expected nobody to use it"
        )
        assert driver(place, VFS[0]) == "vfio-pci"
        node.rmdir()
        allocate(place, VFS[0])
        assert driver(place, VFS[0]) == "iavf"


def test_program_that_has_it_open_is_found_without_a_node_of_its_group(place: Place, kernel: Kernel) -> None:
    """As for an agent in a container, whose /dev has no node for a group that was created later."""
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        allocate(place, VFS[0])
        group = f"/dev/vfio/{PciDevice(VFS[0], place.sysfs.root).iommu_group}"
        shell = f"mount -t tmpfs none /dev; mkdir /dev/vfio; exec 9<> {group}; echo open; exec sleep infinity"
        with subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", shell], stdout=subprocess.PIPE
        ) as program:
            assert program.stdout is not None
            try:
                assert program.stdout.readline() == b"open\n"
                start(place, VFS[0])
                with pytest.raises(grpc.RpcError) as caught:
                    allocate(place, VFS[0])
            finally:
                program.kill()
        assert caught.value.details() == (
            f"device {VFS[0]}: process {program.pid} (sleep) has its vfio group open; expected nobody to use it"
        )
        allocate(place, VFS[0])
        assert driver(place, VFS[0]) == "iavf"


def test_vf_of_a_node_without_an_iommu_is_given_back_though_there_is_a_folder_of_vfio(
    place: Place, kernel: Kernel
) -> None:
    (place.folder / "dev/vfio").mkdir(parents=True)
    (place.sysfs.path(VFS[0]) / "iommu_group").unlink()
    (place.sysfs.path(VFS[0]) / "uio/uio0").mkdir(parents=True)
    with place.running({**POOL, "bind": "igb_uio"}, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        start(place, VFS[0])
        assert driver(place, VFS[0]) == "igb_uio"
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [], "given back")
        assert driver(place, VFS[0]) == "iavf"


def test_options_ask_for_the_call_before_the_start_only_where_it_binds(place: Place) -> None:
    with place.running(POOL, BY_PF[1], **more(place)):
        wait_listed(place, {"intel.com/one": VFS, "intel.com/two": OTHER_VFS})
        for name, required in {"one": True, "two": False}.items():
            options = call(place.sockets / f"intel.com_{name}.sock", "GetDevicePluginOptions", dp.Empty())
            assert options.pre_start_required == required


def test_failure_to_bind_is_told_and_the_vf_is_given_back(
    place: Place, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: PciDevice, name: str) -> None:
        if name == "vfio-pci":
            raise Error(Kind.DEVICE, f"device {device.address}: no")

    monkeypatch.setattr("wirespeed.devices.drivers.bind", fail)
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 1)
        with pytest.raises(grpc.RpcError) as caught:
            start(place, VFS[0])
        assert caught.value.details() == f"device {VFS[0]}: no"
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [], "forgotten")


def test_pool_that_binds_without_cdi_is_refused(place: Place) -> None:
    with pytest.raises(Error, match=r"resource intel\.com/one: bind needs cdi"):
        Plugin(place.config(POOL))


def test_vf_that_is_gone_is_forgotten(place: Place, kernel: Kernel) -> None:
    with place.running(POOL, **more(place)):
        place.kubelet.wait_ids("intel.com/one", VFS)
        place.kubelet.allocate("default", "pod", "app", "intel.com/one", 4)
        start(place, VFS[3])
        place.sysfs.set_vfs(PF, 0)
        place.kubelet.free("default", "pod")
        until(lambda: bound(place) == [], "forgotten")
    assert kernel.done == [f"bind {VFS[3]} vfio-pci", f"reset {VFS[3]}"]
