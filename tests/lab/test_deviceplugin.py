"""The agent's device plugin on real VFs: pools, allocation, and devices that change at runtime."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.lab.conftest import PFS, VFS_PER_PF, LabVfs, bind, sh
from wirespeed.deviceplugin.follow import Follower
from wirespeed.devices.pci import PciDevice
from wirespeed.play.kubelet import Kubelet

PATIENCE = 30.0
MAKING = 30.0  # seconds for the kernel to create VFs


def pf(name: str) -> str:
    return Path(f"/sys/class/net/{name}/device").resolve().name


@pytest.fixture(scope="module")
def kubelet(vfs: LabVfs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A kubelet, and an agent with pools selected by driver, by PF, by VF, and a PF itself."""
    folder = tmp_path_factory.mktemp("deviceplugin")
    pools = [
        {"resourceName": "dpdk", "selectors": {"drivers": ["vfio-pci"]}},
        {"resourceName": "first", "selectors": {"pfNames": ["ens1"]}},
        {"resourceName": "second", "selectors": {"rootDevices": [f"{pf('ens2')}#1"], "linkTypes": ["ether"]}},
        {"resourceName": "pf", "selectors": {"pciAddresses": [pf("ens2")]}},
    ]
    (folder / "pools.json").write_text(json.dumps({"resourceList": pools}))
    config = {
        "socket": str(folder / "agent.sock"),
        "state": str(folder / "state.db"),
        "leases": str(folder / "leases"),
        "devinfo": str(folder / "devinfo"),
        "kubelet": str(folder / "kubelet"),
        "cluster": {"manifests": str(folder / "manifests")},
        "devicePlugin": str(folder / "pools.json"),
        "resourcePrefix": "lab.example",
    }
    (folder / "manifests").mkdir()
    (folder / "agent.json").write_text(json.dumps(config))
    kubelet = Kubelet(folder / "kubelet")
    kubelet.start()
    process = subprocess.Popen([sys.executable, "-m", "wirespeed", "agent", "--config", folder / "agent.json"])
    try:
        kubelet.wait_for("lab.example/dpdk", len(vfs.vfio), PATIENCE)
        yield kubelet
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        kubelet.stop()


def ids(kubelet: Kubelet, name: str) -> list[str]:
    devices = kubelet.resources().get(f"lab.example/{name}", [])
    return [device.ID for device in devices if device.health == "Healthy"]


def expect(kubelet: Kubelet, pools: dict[str, list[str]], timeout: float = PATIENCE) -> None:
    """Wait until the pools have these devices."""
    kubelet.wait_until(
        lambda: all(ids(kubelet, name) == sorted(expected) for name, expected in pools.items()), timeout, str(pools)
    )


def ordinary(vfs: LabVfs) -> dict[str, list[str]]:
    """The pools' devices while the VFs are in their initial state."""
    return {"dpdk": vfs.vfio, "first": vfs.kernel[:2], "second": [vfs.kernel[3]], "pf": []}


@contextmanager
def driver(address: str, name: str) -> Iterator[None]:
    """Bind the device to another driver, and back after the body."""
    before = PciDevice(address).driver
    bind(address, name)
    try:
        yield
    finally:
        bind(address, before)


@contextmanager
def no_vfs(name: str) -> Iterator[None]:
    """Remove a PF's VFs, and restore the initial ones after the body."""
    device = Path(f"/sys/class/net/{name}/device")
    (device / "sriov_numvfs").write_text("0")
    try:
        yield
    finally:
        (device / "sriov_numvfs").write_text(str(VFS_PER_PF))
        for _, address in PciDevice(device.resolve().name).virtual_functions()[2:]:
            bind(address, "vfio-pci")


@contextmanager
def default_route(interface: str) -> Iterator[None]:
    sh("ip", "link", "set", interface, "up")
    sh("ip", "addr", "add", "192.0.2.1/24", "dev", interface)
    sh("ip", "route", "add", "default", "via", "192.0.2.2", "dev", interface)
    try:
        yield
    finally:
        sh("ip", "addr", "flush", "dev", interface)  # removes the interface's routes too


def test_vfs_are_in_pools_by_driver_and_pf(kubelet: Kubelet, vfs: LabVfs) -> None:
    expect(kubelet, ordinary(vfs))


def test_allocated_vfio_vf_comes_with_the_device_of_its_group(kubelet: Kubelet, vfs: LabVfs) -> None:
    answer = kubelet.allocate("default", "pod", "app", "lab.example/dpdk", 1)
    kubelet.free("default", "pod")
    given = answer.envs["PCIDEVICE_LAB_EXAMPLE_DPDK"]
    assert given in vfs.vfio
    nodes = [(node.container_path, node.host_path) for node in answer.devices]
    group = f"/dev/vfio/{PciDevice(given).iommu_group}"
    assert nodes == [("/dev/vfio/vfio", "/dev/vfio/vfio"), (group, group)]
    assert all(Path(host).is_char_device() for _, host in nodes)
    info = json.loads((kubelet.folder.parent / f"devinfo/dp/lab.example-dpdk-{given}-device.json").read_text())
    parent = PciDevice(given).physical_function
    assert parent is not None
    assert info["pci"] == {"pci-address": given, "pf-pci-address": parent.address}


def test_vf_that_is_bound_to_another_driver_changes_its_pool(kubelet: Kubelet, vfs: LabVfs) -> None:
    moved = vfs.kernel[0]
    with driver(moved, "vfio-pci"):
        expect(kubelet, {"dpdk": [*vfs.vfio, moved], "first": [vfs.kernel[1]]})
        answer = kubelet.allocate("default", "pod", "app", "lab.example/dpdk", 5)
        kubelet.free("default", "pod")
        assert moved in answer.envs["PCIDEVICE_LAB_EXAMPLE_DPDK"].split(",")
    expect(kubelet, ordinary(vfs))


def test_vf_without_a_driver_is_in_no_pool(kubelet: Kubelet, vfs: LabVfs) -> None:
    device = Path("/sys/bus/pci/devices") / vfs.kernel[3]
    (device / "driver/unbind").write_text(vfs.kernel[3])
    expect(kubelet, {"second": []})
    Path("/sys/bus/pci/drivers_probe").write_text(vfs.kernel[3])
    expect(kubelet, {"second": [vfs.kernel[3]]})


def test_vfs_that_are_removed_and_made_again_are_seen(kubelet: Kubelet, vfs: LabVfs) -> None:
    with no_vfs("ens1"):
        expect(kubelet, {"dpdk": vfs.vfio[2:], "first": [], "second": [vfs.kernel[3]]})
    expect(kubelet, ordinary(vfs), MAKING)


def test_pf_is_offered_while_it_has_no_vfs_and_no_default_route(kubelet: Kubelet, vfs: LabVfs) -> None:
    with no_vfs("ens2"):
        expect(kubelet, {"pf": [pf("ens2")], "second": []})
        with default_route("ens2"):
            expect(kubelet, {"pf": []})
        expect(kubelet, {"pf": [pf("ens2")]})
    expect(kubelet, ordinary(vfs), MAKING)


def test_vf_that_carries_a_default_route_is_left_out_meanwhile(kubelet: Kubelet, vfs: LabVfs) -> None:
    [interface] = PciDevice(vfs.kernel[0]).netdevs
    with default_route(interface):
        expect(kubelet, {"first": [vfs.kernel[1]]})
    sh("ip", "link", "set", interface, "down")
    expect(kubelet, ordinary(vfs))


def test_vf_that_becomes_part_of_the_uplink_is_left_out_meanwhile(kubelet: Kubelet, vfs: LabVfs) -> None:
    [interface] = PciDevice(vfs.kernel[0]).netdevs
    sh("ip", "link", "add", "br-ex", "type", "bridge")
    try:
        with default_route("br-ex"):
            sh("ip", "link", "set", interface, "master", "br-ex")
            expect(kubelet, {"first": [vfs.kernel[1]]})
            sh("ip", "link", "set", interface, "nomaster")
            expect(kubelet, ordinary(vfs))
    finally:
        sh("ip", "link", "del", "br-ex")


def test_vf_whose_interface_goes_to_a_pod_stays_and_costs_no_look_at_all_devices(
    kubelet: Kubelet, vfs: LabVfs, namespaces: Callable[[], str]
) -> None:
    [interface] = PciDevice(vfs.kernel[1]).netdevs
    netns = Path(namespaces()).name
    with closing(Follower([], "/sys")) as follower:
        follower.read()
        sh("ip", "link", "set", interface, "netns", netns)
        assert select.select([follower._changes], [], [], PATIENCE)[0]
        assert not follower._drain()
        sh("ip", "-n", netns, "link", "set", interface, "netns", "1")
        assert select.select([follower._changes], [], [], PATIENCE)[0]
        assert not follower._drain()
        assert follower._changes.drain().devices == set()
        with driver(vfs.kernel[0], "vfio-pci"):
            assert select.select([follower._changes], [], [], PATIENCE)[0]
            assert follower._drain()
    assert PciDevice(vfs.kernel[1]).netdevs == [interface]
    expect(kubelet, ordinary(vfs))


def test_pf_that_is_renamed_is_known_by_its_new_name(kubelet: Kubelet, vfs: LabVfs) -> None:
    sh("ip", "link", "set", PFS[0], "name", "renamed0")
    try:
        expect(kubelet, {"first": []})
    finally:
        sh("ip", "link", "set", "renamed0", "name", PFS[0])
    expect(kubelet, ordinary(vfs))
