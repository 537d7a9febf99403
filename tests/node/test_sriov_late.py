"""A VF whose driver creates its interface some time after it was bound, like iavf after talking to the PF.

The driver and the sysfs are fake. The interface is one end of a veth pair, and the kernel reports when it appears.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from wirespeed.cni.request import Request
from wirespeed.devices import drivers
from wirespeed.devices.device import Device
from wirespeed.devices.pci import PciDevice
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.sriov import vf as vf_module

T = TypeVar("T")


def test_a_vf_that_gets_the_kernels_driver_goes_into_the_pod_once_that_has_made_its_interface(
    netns: Callable[[], Netns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, pod, sysfs = netns(), netns(), FakeSysfs(tmp_path / "sys")
    (address,) = sysfs.pf("0000:18:00.0", "pf0", vfs=1, vf_driver="vfio-pci")
    vf = PciDevice(address, sysfs.root)
    host.run("ip", "link", "add", "pf0", "type", "bridge")

    def bind(device: Device, driver: str) -> None:
        sysfs.bind(device.address, driver or "iavf")

    def made_after_a_look(look: Callable[[Rtnl], T | None], timeout: float) -> T | None:
        def looked(rtnl: Rtnl) -> T | None:
            found = look(rtnl)
            if not vf.netdevs:
                sysfs.interface(address, "vf0")
                host.run("ip", "link", "add", "vf0", "type", "veth", "peer", "name", "wire0")
            return found

        return wait_for(looked, timeout)

    monkeypatch.setattr(drivers, "bind", bind)
    monkeypatch.setattr(vf_module, "wait_for", made_after_a_look)
    node = Node(NodeConfig(state=str(tmp_path / "run/state.db"), sysfs=str(sysfs.root), leases=str(tmp_path / "l")))
    plugin = node.plugin("sriov")
    config = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": address}
    add = Request(
        command="ADD",
        container_id=pod.name,
        netns=pod.path,
        ifname="net1",
        config=config | {"driver": "netdevice", "mtu": 1400},
    )
    with namespaces.opened(host.path) as ns:
        added = namespaces.inside(ns.fd, lambda: plugin.add(add))
        inside = pod.links()["net1"]
        assert (vf.driver, inside["mtu"], added["interfaces"][0]["mac"]) == ("iavf", 1400, inside["address"])
        namespaces.inside(ns.fd, lambda: plugin.delete(add.derive(command="DEL")))
    assert vf.driver == "vfio-pci"
    assert node.journal.claims() == []
    node.close()
