"""The agent's device plugin on real VFs: faults, drivers that are bound on request, pools that change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import LabVfs, sh
from wirespeed.devices.pci import PciDevice
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.play.kubelet import Kubelet

PATIENCE = 30.0


@dataclass(frozen=True)
class Place:
    folder: Path
    kubelet: Kubelet
    process: subprocess.Popen[bytes]

    def health(self, name: str) -> dict[str, str]:
        return {device.ID: device.health for device in self.kubelet.resources().get(f"lab.example/{name}", [])}

    def wait(self, name: str, expected: dict[str, str]) -> None:
        """Wait until the pool's devices have this health."""
        self.kubelet.wait_until(lambda: self.health(name) == expected, PATIENCE, f"{expected} of {name}")

    def write(self, *pools: dict[str, Any]) -> None:
        (self.folder / "new").write_text(json.dumps({"resourceList": pools}))
        (self.folder / "new").rename(self.folder / "pools.json")


POOLS = (
    {"resourceName": "dpdk", "selectors": {"drivers": ["vfio-pci"]}},
    {"resourceName": "mixed", "bind": True, "cdi": True, "selectors": {"pfNames": ["ens1#0-1"]}},
    {"resourceName": "net", "selectors": {"pfNames": ["ens2"]}},
)


@pytest.fixture(scope="module")
def place(vfs: LabVfs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("health")
    config = {
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "run/state.db"),
        "leases": str(folder / "leases"),
        "devinfo": str(folder / "devinfo"),
        "kubelet": str(folder / "kubelet"),
        "cdiDir": str(folder / "cdi"),
        "cluster": {"manifests": str(folder / "manifests")},
        "devicePlugin": str(folder / "pools.json"),
        "resourcePrefix": "lab.example",
    }
    (folder / "manifests").mkdir()
    (folder / "run").mkdir()
    (folder / "agent.json").write_text(json.dumps(config))
    kubelet = Kubelet(folder / "kubelet")
    kubelet.start()
    (folder / "pools.json").write_text(json.dumps({"resourceList": POOLS}))
    for pf in ("ens1", "ens2"):
        sh("ip", "link", "set", pf, "up")
    process = subprocess.Popen([sys.executable, "-m", "wirespeed", "agent", "--config", folder / "agent.json"])
    try:
        kubelet.wait_for("lab.example/dpdk", len(vfs.vfio), PATIENCE)
        kubelet.wait_for("lab.example/mixed", 2, PATIENCE)
        kubelet.wait_for("lab.example/net", 2, PATIENCE)
        yield Place(folder, kubelet, process)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        kubelet.stop()


def all_are(health: str, *addresses: str) -> dict[str, str]:
    return dict.fromkeys(addresses, health)


def test_vfs_of_a_pf_that_goes_down_are_unhealthy_and_back(place: Place, vfs: LabVfs) -> None:
    sh("ip", "link", "set", "ens2", "down")
    try:
        place.wait("net", all_are("Unhealthy", *vfs.kernel[2:]))
        place.wait("dpdk", {**all_are("Healthy", *vfs.vfio[:2]), **all_are("Unhealthy", *vfs.vfio[2:])})
    finally:
        sh("ip", "link", "set", "ens2", "up")
    place.wait("net", all_are("Healthy", *vfs.kernel[2:]))
    place.wait("dpdk", all_are("Healthy", *vfs.vfio))


def test_vf_that_loses_its_driver_is_unhealthy_and_back(place: Place, vfs: LabVfs) -> None:
    device = PciDevice(vfs.kernel[2])
    (device.path / "driver/unbind").write_text(device.address)
    place.wait("net", {vfs.kernel[2]: "Unhealthy", vfs.kernel[3]: "Healthy"})
    Path("/sys/bus/pci/drivers_probe").write_text(device.address)
    place.wait("net", all_are("Healthy", *vfs.kernel[2:]))


def test_vfio_node_that_goes_is_unhealthy_and_back(place: Place, vfs: LabVfs) -> None:
    node = Path("/dev/vfio") / PciDevice(vfs.vfio[0]).iommu_group
    node.rename("/dev/vfio/hidden")
    try:
        place.wait("dpdk", {**all_are("Healthy", *vfs.vfio), vfs.vfio[0]: "Unhealthy"})
    finally:
        Path("/dev/vfio/hidden").rename(node)
    place.wait("dpdk", all_are("Healthy", *vfs.vfio))


def test_driver_follows_the_request_and_comes_back(place: Place, vfs: LabVfs) -> None:
    [first, second] = vfs.kernel[:2]
    own, netdevs = PciDevice(first).driver, PciDevice(first).netdevs
    place.kubelet.allocate("default", "pod", "app", "lab.example/mixed", 1)
    with rpc.channel(str(place.folder / "kubelet/device-plugins/lab.example_mixed.sock")) as channel:
        client = rpc.Client(channel, dp.DESCRIPTOR.services_by_name["DevicePlugin"])
        client.PreStartContainer(dp.PreStartContainerRequest(devices_ids=[first]), timeout=PATIENCE)
    assert PciDevice(first).driver == "vfio-pci"
    node = f"/dev/vfio/{PciDevice(first).iommu_group}"
    spec = json.loads((place.folder / "cdi/wirespeed-dp-lab.example-net-pci-mixed.json").read_text())
    edits = {device["name"]: device["containerEdits"] for device in spec["devices"]}
    assert [each["path"] for each in edits[first]["deviceNodes"]] == ["/dev/vfio/vfio", node]
    assert Path(node).is_char_device()
    assert PciDevice(second).driver == own
    # a program of the pod still has the device open, although the kubelet has freed it
    with open(node, "rb+", buffering=0):
        place.kubelet.free("default", "pod")
        place.wait("mixed", all_are("Healthy", first, second))
        assert PciDevice(first).driver == "vfio-pci"
    place.kubelet.allocate("default", "other", "app", "lab.example/mixed", 2)
    assert PciDevice(first).driver == own
    assert PciDevice(first).netdevs == netdevs
    place.kubelet.free("default", "other")
    place.wait("mixed", all_are("Healthy", first, second))


def test_pools_that_change_are_served_without_a_restart(place: Place, vfs: LabVfs) -> None:
    place.write(*POOLS[:2], {"resourceName": "new", "selectors": {"pfNames": ["ens2"]}})
    try:
        place.wait("new", all_are("Healthy", *vfs.kernel[2:]))
        assert place.process.poll() is None
    finally:
        place.write(*POOLS)
    place.wait("net", all_are("Healthy", *vfs.kernel[2:]))
