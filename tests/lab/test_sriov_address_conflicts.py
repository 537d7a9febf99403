"""One MAC for two VFs of a PF: it is taken from a pod that is gone, never from one that exists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.conftest import LabVfs, Runtime, conf, differences, link_in, pf_of, sh, state_of_everything, vf_of
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

Namespaces = Callable[[], str]
MAC = "02:00:00:00:00:aa"


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_mac_of_a_pod_that_is_gone_is_taken_from_its_vf_which_is_restored(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str
) -> None:
    before = state_of_everything()
    old, new = namespaces(), namespaces()
    first = getattr(vfs, kind)[0]
    second = vfs.kernel[1]
    assert pf_of(first) == pf_of(second)
    asked = conf(first, mac=MAC, vlan=9, trust="on", **({"mtu": 1300} if kind == "kernel" else {}))
    assert agent.add("old", asked, old).code == 0
    assert vf_of(first)["address"] == MAC
    sh("ip", "netns", "del", Path(old).name)
    assert agent.add("new", conf(second, mac=MAC), new).code == 0
    shown = link_in(new, "net1")
    assert shown is not None
    assert (shown["address"], vf_of(second)["address"]) == (MAC, MAC)
    # The first VF is in its initial state; only the second one is changed.
    number, netdev = PciDevice(second).vf_index, set(before[second]["netdevs"])
    changed = differences(before, state_of_everything())
    assert changed
    mine = (second, *netdev, f"{pf_of(second)} vf {number} ")
    assert [line for line in changed if not line.startswith(mine)] == []
    assert agent.delete("old", asked, old).code == 0
    assert vf_of(second)["address"] == MAC
    assert agent.delete("new", conf(second, mac=MAC), new).code == 0


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_mac_of_a_pod_that_is_there_is_refused_with_its_name_until_it_goes(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str
) -> None:
    old, new = namespaces(), namespaces()
    first, second = getattr(vfs, kind)[0], vfs.kernel[1]
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=virt-launcher-vm1-x"
    assert agent.add("old", conf(first), old, args=f"{args};MAC={MAC}").code == 0
    between = state_of_everything()
    refused = agent.add("new", conf(second, mac=MAC), new)
    assert refused.code == 1
    assert refused.body["code"] == 11
    assert (
        f'key "mac": {MAC} belongs to device {first}, which is net1 of pod vms/virt-launcher-vm1-x (container old)'
    ) in refused.body["msg"]
    assert differences(between, state_of_everything()) == []
    assert agent.delete("new", conf(second, mac=MAC), new).code == 0
    assert agent.delete("old", conf(first), old).code == 0
    assert agent.add("new", conf(second, mac=MAC), new).code == 0
    assert agent.delete("new", conf(second, mac=MAC), new).code == 0


def test_one_mac_may_be_on_two_vlans_and_on_two_pfs(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    other_pf = next(device for device in vfs.kernel if pf_of(device) != pf_of(vfs.kernel[0]))
    asked = [
        conf(vfs.kernel[0], mac=MAC, vlan=100),
        conf(vfs.kernel[1], mac=MAC, vlan=200),
        conf(other_pf, mac=MAC, vlan=100),
    ]
    pods = [(f"pod{number}", config, namespaces()) for number, config in enumerate(asked)]
    for container, config, netns in pods:
        assert agent.add(container, config, netns).code == 0
        assert vf_of(config["deviceID"])["address"] == MAC
    for container, config, netns in pods:
        assert agent.delete(container, config, netns).code == 0
