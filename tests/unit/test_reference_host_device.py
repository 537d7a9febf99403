"""host-device: which device its keys name, read from a fake sysfs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference import host_device
from wirespeed.plugins.reference.host_device import HostDevice

VFIO, KERNEL, UNBOUND = "0000:18:00.0", "0000:19:00.0", "0000:1a:00.0"
OWN = "/proc/self/ns/net"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """A plugin on a node with three PCI devices, and the auxiliary device mlx5_core.sf.2 with the interface sf2."""
    sysfs = FakeSysfs(tmp_path)
    sysfs.device(VFIO, driver="vfio-pci")
    sysfs.device(KERNEL, driver="ice", name="absent0")
    sysfs.device(UNBOUND)
    (tmp_path / "bus/auxiliary/devices/mlx5_core.sf.2/net/absent2").mkdir(parents=True)
    (tmp_path / "bus/auxiliary/devices/mlx5_core.sf.3").mkdir(parents=True)
    monkeypatch.setattr(host_device, "_PCI", f"{tmp_path}/bus/pci/devices")
    monkeypatch.setattr(host_device, "_AUXILIARY", f"{tmp_path}/bus/auxiliary/devices")
    return HostDevice(Ipam(tmp_path / "leases"))


def add(**keys: Any) -> Request:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "host-device", **keys}
    return Request(command="ADD", container_id="c1", netns=OWN, ifname="net1", config=config)


@pytest.mark.parametrize(
    "keys",
    [
        {"pciBusID": VFIO},
        {"PciBusId": VFIO},
        {"pciBusID": KERNEL, "runtimeConfig": {"deviceID": VFIO}},
        {"device": "absent1", "DPDKMode": True},
        {"device": "absent1", "dpdkMode": True, "pciBusID": VFIO},
    ],
    ids=str,
)
def test_nothing_is_moved_for_a_device_in_user_space(plugin: HostDevice, keys: dict[str, Any]) -> None:
    result = plugin.add(add(**keys))
    assert result == {"interfaces": [{"name": "net1", "sandbox": OWN}], "ips": [], "routes": [], "dns": {}}


def test_a_device_in_user_space_gets_addresses_in_the_result(plugin: HostDevice) -> None:
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.2/24"}]}
    result = plugin.add(add(pciBusID=VFIO, ipam=ipam, dns={"domain": "example.org"}))
    assert result["ips"] == [{"address": "10.9.0.2/24", "interface": 0}]
    assert result["dns"] == {"domain": "example.org"}


@pytest.mark.parametrize(
    ("keys", "kind", "named"),
    [
        ({}, Kind.INVALID_CONFIG, '"device"'),
        ({"device": ""}, Kind.INVALID_CONFIG, '"device"'),
        ({"device": 7}, Kind.INVALID_CONFIG, "device"),
        ({"device": "absent1"}, Kind.DEVICE, "absent1"),
        ({"device": "absent1", "pciBusID": KERNEL, "DPDKMode": True}, Kind.DEVICE, "absent1"),
        ({"pciBusID": KERNEL}, Kind.DEVICE, "absent0"),
        ({"pciBusID": UNBOUND}, Kind.DEVICE, UNBOUND),
        ({"pciBusID": "0000:ff:00.0"}, Kind.DEVICE, "0000:ff:00.0"),
        ({"pciBusID": VFIO, "runtimeConfig": {"deviceID": "mlx5_core.sf.2"}}, Kind.DEVICE, "absent2"),
        ({"runtimeConfig": {"deviceID": "mlx5_core.sf.3"}}, Kind.DEVICE, "mlx5_core.sf.3"),
        ({"runtimeConfig": {"deviceID": "mlx5_core.sf.4"}}, Kind.DEVICE, "mlx5_core.sf.4"),
        ({"runtimeConfig": {"deviceID": 4}}, Kind.INVALID_CONFIG, "deviceID"),
        ({"hwaddr": "02:00:00:00:00:99"}, Kind.DEVICE, "02:00:00:00:00:99"),
        ({"hwaddr": "nonsense"}, Kind.DEVICE, "nonsense"),
        ({"kernelpath": "/tmp/net0"}, Kind.INVALID_CONFIG, "kernelpath"),
        ({"kernelpath": "/sys/devices/none"}, Kind.DEVICE, "/sys/devices/none"),
    ],
    ids=str,
)
def test_a_device_that_is_not_there_is_named(
    plugin: HostDevice, keys: dict[str, Any], kind: Kind, named: str
) -> None:
    with pytest.raises(Error) as refused:
        plugin.add(add(**keys))
    assert refused.value.kind == kind
    assert named in refused.value.msg
