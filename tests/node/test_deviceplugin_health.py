"""Devices that become Unhealthy and Healthy again, as the kubelet sees them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.calling import is_soon
from tests.node.conftest import PATIENCE
from tests.node.deviceplugins import BOTH, BY_DRIVER, BY_PF, OTHER_VFS, PF, VFS, Place, standing, texts, wait_listed
from wirespeed.deviceplugin.plugin import Plugin

SOON = 1.0  # seconds from a fault to the kubelet's device list, as documented


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with standing(tmp_path) as place:
        yield place


def unhealthy(place: Place, resource: str) -> list[str]:
    devices = place.kubelet.resources().get(resource, [])
    return [device.ID for device in devices if device.health == "Unhealthy"]


def wait_unhealthy(place: Place, resource: str, expected: list[str], timeout: float = PATIENCE) -> None:
    place.kubelet.wait_until(
        lambda: unhealthy(place, resource) == expected, timeout, f"unhealthy {expected} of {resource}"
    )


def figures(plugin: Plugin) -> set[tuple[str, ...]]:
    [family] = [family for family in plugin.metrics() if family.name == "wirespeed_device_unhealthy"]
    return {labels for labels, value in family.samples if value == 1}


def test_vfs_of_a_pf_without_carrier_are_unhealthy_within_a_second_and_back(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place.sysfs.set_interface("ens1f0", "operstate", "up")
    with place.running(*BY_PF) as plugin:
        wait_listed(place, BOTH)
        rounds = 0

        def carrier_goes_and_comes() -> float:
            nonlocal rounds
            rounds += 1
            began = time.monotonic()
            place.sysfs.set_interface("ens1f0", "operstate", "down")
            wait_unhealthy(place, "intel.com/one", VFS)
            took = time.monotonic() - began
            assert figures(plugin) == {("intel.com/one", key, "link") for key in VFS}
            assert place.kubelet.ids("intel.com/two") == OTHER_VFS
            place.sysfs.set_interface("ens1f0", "operstate", "up")
            wait_listed(place, BOTH)
            assert figures(plugin) == set()
            return took

        assert is_soon(carrier_goes_and_comes, SOON)
    assert texts(caplog).count("pool intel.com/one: unhealthy: PF ens1f0 has no carrier") == rounds
    assert texts(caplog).count("pool intel.com/one: healthy again") == rounds


def test_pool_counts_only_the_faults_that_it_names(place: Place) -> None:
    place.sysfs.set_interface("ens1f0", "operstate", "down")
    place.sysfs.set_interface("ens2f0", "operstate", "down")
    with place.running({**BY_PF[0], "health": ["driver", "pcie"]}, {**BY_PF[1], "health": ["link"]}):
        wait_unhealthy(place, "intel.com/two", OTHER_VFS)
        place.kubelet.wait_ids("intel.com/one", VFS)


def test_lost_driver_and_lost_device_stay_in_the_list_as_unhealthy(place: Place) -> None:
    with place.running(*BY_DRIVER) as plugin:
        wait_listed(place, {"intel.com/net": [*VFS, *OTHER_VFS], "intel.com/dpdk": []})
        place.sysfs.bind(VFS[0], "")
        place.sysfs.bind(VFS[1], "vfio-pci")  # intended, because the device moves to the other pool
        place.sysfs.remove(VFS[2])
        plugin.request_read()
        wait_unhealthy(place, "intel.com/net", [VFS[0], VFS[2]])
        wait_listed(place, {"intel.com/net": [VFS[3], *OTHER_VFS], "intel.com/dpdk": [VFS[1]]})
        assert figures(plugin) == {
            ("intel.com/net", VFS[0], "driver"),
            ("intel.com/net", VFS[2], "gone"),
        }
        place.sysfs.bind(VFS[0], "iavf")
        plugin.request_read()
        wait_unhealthy(place, "intel.com/net", [VFS[2]])
        place.sysfs.set_vfs(PF, 2)  # its removal is intended now
        plugin.request_read()
        wait_unhealthy(place, "intel.com/net", [])
        wait_listed(place, {"intel.com/net": [*VFS[:2], *OTHER_VFS], "intel.com/dpdk": []})


def test_vfio_node_that_goes_is_noticed_by_itself(place: Place) -> None:
    nodes = place.folder / "dev/vfio"
    nodes.mkdir(parents=True)
    place.sysfs.bind(VFS[1], "vfio-pci")
    group = (place.sysfs.path(VFS[1]) / "iommu_group").resolve().name
    (nodes / group).touch()
    with place.running(*BY_DRIVER) as plugin:
        place.kubelet.wait_ids("intel.com/dpdk", [VFS[1]])

        def node_goes_and_comes() -> float:
            began = time.monotonic()
            (nodes / group).unlink()
            wait_unhealthy(place, "intel.com/dpdk", [VFS[1]])
            took = time.monotonic() - began
            assert figures(plugin) == {("intel.com/dpdk", VFS[1], "vfio")}
            (nodes / group).touch()
            place.kubelet.wait_ids("intel.com/dpdk", [VFS[1]])
            return took

        assert is_soon(node_goes_and_comes, SOON)


def test_fatal_pcie_error_of_a_pf_is_noticed_by_itself(place: Place) -> None:
    errors = 0
    place.sysfs.write(PF, "aer_dev_fatal", "TOTAL_ERR_FATAL 0")

    def one_more_error() -> float:
        nonlocal errors
        errors += 1
        with place.running(*BY_PF) as plugin:
            wait_listed(place, BOTH)
            began = time.monotonic()
            place.sysfs.write(PF, "aer_dev_fatal", f"TOTAL_ERR_FATAL {errors}")
            wait_unhealthy(place, "intel.com/one", VFS)
            took = time.monotonic() - began
            assert figures(plugin) == {("intel.com/one", key, "pcie") for key in VFS}
        return took

    assert is_soon(one_more_error, SOON)


def test_vf_whose_interface_is_in_a_pod_stays_healthy(place: Place) -> None:
    place.sysfs.set_interface("ens1f0", "operstate", "up")
    with place.running(*BY_PF) as plugin:
        wait_listed(place, BOTH)
        place.sysfs.drop_interface("ens1f0v0")
        # a visible change, to know that the devices were read
        place.sysfs.set_interface("ens2f0", "operstate", "down")
        plugin.request_read()
        wait_unhealthy(place, "intel.com/two", OTHER_VFS)
        assert place.kubelet.ids("intel.com/one") == VFS


def test_unhealthy_device_is_not_given(place: Place) -> None:
    with place.running({**BY_PF[1]}) as plugin:
        place.kubelet.wait_ids("intel.com/two", OTHER_VFS)
        place.sysfs.bind(OTHER_VFS[0], "")
        plugin.request_read()
        wait_unhealthy(place, "intel.com/two", OTHER_VFS[:1])
        answer = place.kubelet.allocate("default", "pod", "app", "intel.com/two", 1)
        assert answer.envs["PCIDEVICE_INTEL_COM_TWO"] == OTHER_VFS[1]
