"""A VF's way into a pod and back, on the igb driver's VFs, through the shim and the agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import (
    LabVfs,
    Runtime,
    conf,
    host_local,
    in_namespace,
    link_in,
    sh,
    state_of_everything,
)
from wirespeed.cni.errors import Code
from wirespeed.host.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
Namespaces = Callable[[], str]


def vf_of(address: str) -> dict[str, Any]:
    """What the PF shows of a VF, by `ip -d -j link`."""
    device = PciDevice(address)
    pf = device.physical_function
    assert pf is not None
    link = json.loads(sh("ip", "-d", "-j", "link", "show", pf.netdevs[0]))[0]
    found: dict[str, Any] = link["vfinfo_list"][device.vf_index]
    return found


def test_kernel_vf_gets_all_that_is_asked_for(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    asked = conf(device, mac=MAC, vlan=100, vlanQoS=3, spoofchk="off", trust="on", mtu=1400, ipam=host_local())
    added = agent.add("kernel", asked, netns)
    assert added.code == 0, added.body
    link = link_in(netns, "net1")
    assert link is not None
    assert (link["address"], link["mtu"], link["parentdev"]) == (MAC, 1400, device)
    assert "UP" in link["flags"]
    addresses = json.loads(in_namespace(netns, "ip", "-j", "addr", "show", "net1"))[0]["addr_info"]
    assert addresses[0]["local"] + "/24" == added.body["ips"][0]["address"]
    shown = vf_of(device)
    assert (shown["address"], shown["vlan_list"][0]["vlan"], shown["vlan_list"][0]["qos"]) == (MAC, 100, 3)
    assert (shown["spoofchk"], shown["trust"]) == (False, True)
    assert added.body["interfaces"] == [
        {"name": "net1", "mac": MAC, "mtu": 1400, "sandbox": netns, "pciID": device}
    ]
    assert agent.call("CHECK", "kernel", asked | {"prevResult": added.body}, netns=netns).code == 0
    assert agent.delete("kernel", asked, netns).code == 0
    assert link_in(netns, "net1") is None


def test_two_pods_on_one_vlan_reach_each_other(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    pods = [(f"pod{n}", namespaces(), conf(vfs.kernel[n], vlan=50, ipam=host_local())) for n in (0, 1)]
    ips = []
    for container, netns, asked in pods:
        added = agent.add(container, asked, netns)
        assert added.code == 0, added.body
        ips.append(added.body["ips"][0]["address"].split("/")[0])
    in_namespace(pods[0][1], "ping", "-c", "2", "-i", "0.2", "-w", "20", ips[1])
    for container, netns, asked in pods:
        assert agent.delete(container, asked, netns).code == 0


def test_vfio_vf_gets_its_settings_and_a_device_info_file(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device, info = namespaces(), vfs.vfio[0], agent.folder / "devinfo/cni/default-data-vfio_net1"
    asked = conf(device, mac=MAC, vlan=7, ipam=host_local(), runtimeConfig={"CNIDeviceInfoFile": str(info)})
    added = agent.add("vfio", asked, netns)
    assert added.code == 0, added.body
    assert added.body["interfaces"] == [
        {"name": "net1", "mac": MAC, "mtu": 1500, "sandbox": netns, "pciID": device}
    ]
    assert added.body["ips"][0]["address"].startswith("10.8.0.")
    pf = PciDevice(device).physical_function
    assert pf is not None
    assert json.loads(info.read_text())["pci"] == {"pci-address": device, "pf-pci-address": pf.address}
    shown = vf_of(device)
    assert (shown["address"], shown["vlan_list"][0]["vlan"]) == (MAC, 7)
    assert agent.delete("vfio", asked, netns).code == 0
    assert not info.exists()
    assert agent.delete("vfio", asked, netns).code == 0  # a second DEL finds nothing to do


def test_netns_deleted_before_del(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], mac=MAC, vlan=9, mtu=1300, trust="on")
    assert agent.add("gone", asked, netns).code == 0
    sh("ip", "netns", "del", Path(netns).name)
    assert agent.delete("gone", asked, netns).code == 0


def test_netns_deleted_before_del_of_a_vf_named_like_the_pf(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], mac=MAC)
    assert agent.add("gone", asked, netns, ifname="ens1").code == 0
    sh("ip", "netns", "del", Path(netns).name)
    assert agent.delete("gone", asked, netns, ifname="ens1").code == 0


def test_del_without_a_netns_in_the_call(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], vlan=9)
    assert agent.add("unnamed", asked, netns).code == 0
    assert agent.delete("unnamed", asked, "").code == 0
    assert link_in(netns, "net1") is None


def test_late_del_leaves_new_owners_vf_alone(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    old, new, device = namespaces(), namespaces(), vfs.kernel[0]
    assert agent.add("old", conf(device, vlan=11), old).code == 0
    sh("ip", "netns", "del", Path(old).name)
    assert agent.add("new", conf(device, vlan=1234), new).code == 0
    assert agent.delete("old", conf(device, vlan=11), old).code == 0
    assert vf_of(device)["vlan_list"][0]["vlan"] == 1234
    assert link_in(new, "net1") is not None
    assert agent.delete("new", conf(device, vlan=1234), new).code == 0


def test_the_same_vf_asked_for_twice_at_once_goes_to_one(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    device = vfs.kernel[0]
    pods = {name: namespaces() for name in ("one", "two")}
    with ThreadPoolExecutor(2) as pool:
        answers = dict(
            zip(pods, pool.map(lambda pod: agent.add(pod, conf(device, vlan=5), pods[pod]), pods), strict=True)
        )
    winner, loser = sorted(pods, key=lambda pod: answers[pod].code)
    assert (answers[winner].code, answers[loser].code) == (0, 1)
    assert answers[loser].body["code"] == Code.TRY_AGAIN_LATER
    assert f"{device} belongs to container {winner} net1" in answers[loser].body["msg"]
    assert link_in(pods[winner], "net1") is not None
    assert agent.delete(loser, conf(device), pods[loser]).code == 0
    assert link_in(pods[winner], "net1") is not None
    assert agent.delete(winner, conf(device), pods[winner]).code == 0


def test_a_taken_interface_name_is_refused_and_left_alone(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns = namespaces()
    in_namespace(netns, "ip", "link", "add", "net1", "type", "dummy")
    before, everything = link_in(netns, "net1"), state_of_everything()
    refused = agent.add("taken", conf(vfs.kernel[0], mac=MAC, vlan=5), netns)
    assert (refused.code, refused.body["code"]) == (1, Code.INTERFACE)
    assert f"network namespace {netns} has an interface net1 already" in refused.body["msg"]
    assert link_in(netns, "net1") == before
    assert state_of_everything() == everything


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"link_state": "disable"}, '"link_state"'),
        ({"max_tx_rate": 100}, '"max_tx_rate"'),
        ({"vlanProto": "802.1ad"}, '"vlan", "vlanProto"'),
    ],
)
@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_a_setting_that_the_driver_refuses_is_named_and_all_is_put_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str, keys: dict[str, Any], named: str
) -> None:
    device = getattr(vfs, kind)[0]
    pf = PciDevice(device).physical_function
    assert pf is not None
    if "max_tx_rate" in keys:  # igb takes a rate only while the PF has a link
        sh("ip", "link", "set", pf.netdevs[0], "down")
    try:
        everything = state_of_everything()
        asked = conf(device, mac=MAC, vlan=5, spoofchk="off", trust="on", **keys)
        refused = agent.add("refused", asked, namespaces())
        assert (refused.code, refused.body["code"]) == (1, Code.DEVICE)
        assert f"key {named}: the driver of the PF refuses it" in refused.body["msg"]
        assert state_of_everything() == everything
    finally:
        sh("ip", "link", "set", pf.netdevs[0], "up")


def test_a_refused_setting_that_is_so_already_is_no_error(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.vfio[0], link_state="auto", max_tx_rate=0, min_tx_rate=0)
    assert agent.add("same", asked, netns).code == 0
    assert agent.delete("same", asked, netns).code == 0


def test_check_finds_every_drifted_setting(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    asked = conf(device, mac=MAC, vlan=100, spoofchk="off", trust="on", mtu=1400, ipam=host_local())
    added = agent.add("drift", asked, netns)
    pf = PciDevice(device).physical_function
    assert pf is not None
    of_vf = ("ip", "link", "set", pf.netdevs[0], "vf", str(PciDevice(device).vf_index))
    sh(*of_vf, "vlan", "5")
    sh(*of_vf, "spoofchk", "on")
    in_namespace(netns, "ip", "link", "set", "net1", "mtu", "1300")
    in_namespace(netns, "ip", "addr", "flush", "dev", "net1")
    in_namespace(netns, "ip", "link", "set", "net1", "down")
    found = agent.call("CHECK", "drift", asked | {"prevResult": added.body}, netns=netns)
    assert found.body["code"] == Code.DRIFT
    for told in ("vlan is 5, expected 100", "spoofchk is True, expected False", "mtu of net1 is 1300", "is down"):
        assert told in found.body["msg"]
    assert f"address {added.body['ips'][0]['address']} is missing" in found.body["msg"]
    assert agent.delete("drift", asked, netns).code == 0


def test_gc_restores_what_no_valid_attachment_owns(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    kept, lost = namespaces(), namespaces()
    assert agent.add("kept", conf(vfs.kernel[0], vlan=5), kept).code == 0
    assert agent.add("lost", conf(vfs.kernel[1], vlan=6), lost).code == 0
    valid = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "net1"}]}
    assert agent.call("GC", "", conf(vfs.kernel[0]) | valid).code == 0
    assert link_in(lost, "net1") is None
    assert link_in(kept, "net1") is not None
    assert agent.delete("kept", conf(vfs.kernel[0]), kept).code == 0


def test_a_pf_is_no_vf(agent: Runtime, namespaces: Namespaces) -> None:
    pf = Path("/sys/class/net/ens1/device").resolve().name
    refused = agent.add("pf", conf(pf), namespaces())
    assert refused.body["code"] == Code.DEVICE
    assert "expected an SR-IOV virtual function" in refused.body["msg"]
