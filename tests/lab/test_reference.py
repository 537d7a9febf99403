"""The reference plugins, executed and in this process: on a kernel that has all their interfaces, and on VFs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import LabVfs, in_namespace, link_in, sh
from tests.node.reference import chained, children, devices
from tests.node.reference.sides import Executed, InProcess, Side, compare, masked_result
from wirespeed.devices.pci import PciDevice
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference.host_device import HostDevice

BINARIES = Path("/usr/lib/cni")
MAKERS = {**children.MAKERS, **devices.MAKERS, **chained.MAKERS}
Namespaces = Callable[[], str]


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in MAKERS for seed in range(100, 104)])
def test_same_result_and_state_as_the_executable(kind: str, seed: int, tmp_path: Path) -> None:
    make, plugin = MAKERS[kind]
    trial = make(random.Random(f"{kind} {seed}"))
    if trial.newer:
        pytest.skip(trial.newer)
    compare(trial, plugin, tmp_path, BINARIES)


class Node(Side):
    """This machine as the node."""

    def on_node(self, function: Callable[[], Any]) -> Any:
        return function()


def node(netns: str, folder: Path) -> Node:
    return Node("", Path(netns).name, folder, (str(BINARIES),), old=True)


def hardware_address(address: str) -> str:
    return Path(f"/sys/bus/pci/devices/{address}/net/{PciDevice(address).netdevs[0]}/address").read_text().strip()


WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "device": lambda address: {"device": PciDevice(address).netdevs[0]},
    "hwaddr": lambda address: {"hwaddr": hardware_address(address)},
    "kernelpath": lambda address: {"kernelpath": str(Path(f"/sys/bus/pci/devices/{address}").resolve())},
    "pciBusID": lambda address: {"pciBusID": address},
    "deviceID": lambda address: {"runtimeConfig": {"deviceID": address}},
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("way", WAYS)
def test_vf_is_moved_and_put_back_as_the_executable_does(
    way: str, vfs: LabVfs, namespaces: Namespaces, tmp_path: Path
) -> None:
    name = PciDevice(vfs.kernel[0]).netdevs[0]
    config = {"cniVersion": "1.0.0", "name": "net", "type": "host-device", **WAYS[way](vfs.kernel[0])}
    found = []
    for swapped in (False, True):
        side = node(namespaces(), tmp_path)
        executed, own = Executed("host-device", side), InProcess(HostDevice(Ipam(tmp_path)), side)
        adds, deletes = (own, executed) if swapped else (executed, own)
        result = adds.call(side.request("ADD", config, {}))
        link = link_in(f"/run/netns/{side.pod}", "net1")
        assert link is not None
        assert (link["ifalias"], "UP" in link["flags"]) == (name, True)
        found.append((masked_result(result, side), {**link, "ifindex": 0, "operstate": "", "flags": []}))
        deletes.call(side.request("DEL", config, {}))
        if not swapped:
            assert "ifalias" not in json.loads(sh("ip", "-j", "link", "show", name))[0]
        sh("ip", "link", "set", name, "alias", "")  # release 1.1.1 leaves its alias
    assert found[0] == found[1]


@pytest.mark.usefixtures("unchanged")
def test_vf_of_an_application_stays_where_it_is(vfs: LabVfs, namespaces: Namespaces, tmp_path: Path) -> None:
    side = node(namespaces(), tmp_path)
    config = {"cniVersion": "1.0.0", "name": "net", "type": "host-device", "pciBusID": vfs.vfio[0]}
    plugin = InProcess(HostDevice(Ipam(tmp_path)), side)
    before = in_namespace(f"/run/netns/{side.pod}", "ip", "-j", "link")
    result = plugin.call(side.request("ADD", config, {}))
    assert result is not None
    assert result["interfaces"] == [{"name": "net1", "sandbox": f"/run/netns/{side.pod}"}]
    plugin.call(side.request("CHECK", {**config, "prevResult": result}, {}))
    plugin.call(side.request("DEL", config, {}))
    assert in_namespace(f"/run/netns/{side.pod}", "ip", "-j", "link") == before
