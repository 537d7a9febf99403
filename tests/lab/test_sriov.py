"""A VF moves into a pod and back: VFs of the igb driver, with the shim and the agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.conftest import (
    LabVfs,
    Runtime,
    bind,
    conf,
    host_local,
    in_namespace,
    link_in,
    pf_disturbed,
    pf_of,
    process_in,
    sh,
    vf_of,
    without_carrier,
)
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
Namespaces = Callable[[], str]


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
    assert agent.delete("vfio", asked, netns).code == 0  # a repeated DEL succeeds


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


@pytest.mark.parametrize("taken_too", [(), ("net1",)], ids=["free", "taken"])
def test_a_vf_whose_name_was_taken_comes_back_under_another(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, taken_too: tuple[str, ...]
) -> None:
    netns, device = namespaces(), PciDevice(vfs.kernel[0])
    [name], asked = device.netdevs, conf(device.address, mac=MAC)
    assert agent.add("renamed", asked, netns).code == 0
    # which names are taken decides whether the kernel moves the interface before or after it renames it
    for taken in (name, *taken_too):
        sh("ip", "link", "add", taken, "type", "bridge")
    try:
        assert agent.delete("renamed", asked, netns).code == 0
        [spare] = device.netdevs
        assert spare == "vf" + "".join(c for c in device.address if c.isalnum())[-13:]
    finally:
        for taken in (name, *taken_too):
            sh("ip", "link", "delete", taken)
    sh("ip", "link", "set", spare, "name", name)


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


def test_a_refused_setting_that_is_so_already_is_no_error(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.vfio[0], link_state="auto", max_tx_rate=0, min_tx_rate=0)
    assert agent.add("same", asked, netns).code == 0
    assert agent.delete("same", asked, netns).code == 0


def test_a_mac_needs_no_trust_and_leaves_none(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    added = agent.add("untrusted", conf(device, mac=MAC), netns)
    assert added.body["interfaces"][0]["mac"] == MAC
    link = link_in(netns, "net1")
    assert link is not None
    assert (link["address"], vf_of(device)["address"], vf_of(device)["trust"]) == (MAC, MAC, False)
    assert agent.delete("untrusted", conf(device), netns).code == 0
    assert agent.delete("untrusted", conf(device), netns).code == 0  # a repeated DEL succeeds


def test_netns_without_a_path_but_with_a_process_before_del(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], mac=MAC, vlan=9)
    assert agent.add("held", asked, netns).code == 0
    with process_in(netns):
        sh("ip", "netns", "del", Path(netns).name)
        assert agent.delete("held", asked, netns).code == 0
        assert PciDevice(vfs.kernel[0]).netdevs  # moved back by DEL, without waiting for the namespace to end


def namespace_of_number(number: int, namespaces: Namespaces) -> str:
    """A new namespace with the inode number of a deleted one, or "" if none got it.

    The kernel assigns the lowest free number, also to the /proc/net files of each namespace, and removes old
    namespaces in the background. The namespaces made here stay, so that fewer lower numbers are free next time.
    """
    for _ in range(20):
        new = namespaces()
        if Path(new).stat().st_ino == number:
            return new
    return ""


@pytest.mark.parametrize("kind", ["kernel", "vfio"])
def test_a_new_pod_whose_namespace_has_the_inode_number_of_the_dead_ones(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, kind: str
) -> None:
    device = getattr(vfs, kind)[0]
    old, new = "", ""
    for _ in range(10):
        old = namespaces()
        number = Path(old).stat().st_ino
        assert agent.add("old", conf(device, vlan=11), old).code == 0
        sh("ip", "netns", "del", Path(old).name)
        new = namespace_of_number(number, namespaces)
        if new:
            break
        assert agent.delete("old", conf(device), old).code == 0
    assert new, "no namespace got the number of the old one"
    with process_in(new):
        added = agent.add("new", conf(device, vlan=1234), new)
        assert added.code == 0, added.body
        assert agent.delete("old", conf(device, vlan=11), old).code == 0
        assert vf_of(device)["vlan_list"][0]["vlan"] == 1234
        assert agent.delete("new", conf(device, vlan=1234), new).code == 0


def test_an_attachment_that_is_there_is_not_made_again(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], vlan=9, ipam=host_local())
    assert agent.add("twice", asked, netns).code == 0
    before = without_carrier(link_in(netns, "net1"))
    for device in vfs.kernel[:2]:
        again = agent.add("twice", asked | {"deviceID": device}, netns)
        assert (again.code, again.body["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert f"{vfs.kernel[0]} belongs to container twice net1" in again.body["msg"]
    assert without_carrier(link_in(netns, "net1")) == before
    assert len(list((agent.folder / "leases/data").glob("10.8.0.*"))) == 1
    assert agent.delete("twice", asked, netns).code == 0


def test_an_attachment_that_failed_is_made_at_the_next_try(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], mac=MAC, ipam=host_local())
    assert agent.add("again", asked | {"link_state": "disable"}, netns).body["code"] == Code.DEVICE
    assert agent.add("again", asked, netns).code == 0
    assert agent.delete("again", asked, netns).code == 0


def test_a_pf_that_is_down_gives_its_vfs_all_the_same(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    with pf_disturbed(pf_of(device)):
        sh("ip", "link", "set", pf_of(device), "down")
        added = agent.add("down", conf(device, vlan=9, spoofchk="off", ipam=host_local()), netns)
        assert added.code == 0, added.body
        assert vf_of(device)["vlan_list"][0]["vlan"] == 9
        assert agent.delete("down", conf(device, ipam=host_local()), netns).code == 0


@pytest.mark.parametrize("netns_first", [False, True])
def test_a_vf_of_a_pf_that_was_down_gets_a_mac_and_its_own_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces, netns_first: bool
) -> None:
    netns, device = namespaces(), vfs.kernel[0]

    def interrupt() -> None:
        for state in ("down", "up"):
            sh("ip", "link", "set", pf_of(device), state)

    with pf_disturbed(pf_of(device)):
        interrupt()
        added = agent.add("interrupted", conf(device, mac=MAC), netns)
        assert added.code == 0, added.body
        link = link_in(netns, "net1")
        assert link is not None
        assert (link["address"], "UP" in link["flags"]) == (MAC, True)
        if netns_first:
            sh("ip", "netns", "del", Path(netns).name)
        interrupt()
        assert agent.delete("interrupted", conf(device), netns).code == 0


def test_a_pf_without_an_interface_on_the_host_gives_its_vfs_without_settings(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, elsewhere, device = namespaces(), namespaces(), vfs.vfio[-1]
    pf = pf_of(device)
    # DEL must ignore `reset`: it would make igb forget the MAC of the VF, and the PF could not set it again.
    asked = conf(device, reset="on")
    with pf_disturbed(pf):
        sh("ip", "link", "set", pf, "netns", Path(elsewhere).name)
        try:
            refused = agent.add("blind", asked | {"vlan": 9}, netns)
            assert refused.body["code"] == Code.DEVICE
            assert 'key "vlan": it and "vlanQoS", "vlanProto" cannot be set: PF' in refused.body["msg"]
            assert "has no network interface on the host" in refused.body["msg"]
            added = agent.add("blind", asked, netns)
            assert added.body["interfaces"] == [{"name": "net1", "sandbox": netns, "pciID": device}]
            assert agent.delete("blind", asked, netns).code == 0
        finally:
            in_namespace(elsewhere, "ip", "link", "set", pf, "netns", "1")


def test_a_vf_that_lost_its_driver_meanwhile_gets_its_settings_back(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, device = namespaces(), vfs.kernel[-1]
    assert agent.add("lost", conf(device, vlan=9, mac=MAC), netns).code == 0
    Path(f"/sys/bus/pci/devices/{device}/driver/unbind").write_text(device)
    assert agent.delete("lost", conf(device), netns).code == 0
    bind(device, "igbvf")


def test_one_process_adds_without_the_agent_and_the_agent_deletes(
    agent: Runtime, vfs: LabVfs, namespaces: Namespaces
) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], vlan=9, mac=MAC, ipam=host_local())
    added = agent.alone("ADD", "alone", asked, netns)
    assert added.body["interfaces"][0]["mac"] == MAC
    assert agent.delete("alone", asked, netns).code == 0
    assert agent.add("agents", asked, netns).code == 0
    assert agent.alone("DEL", "agents", asked, netns).code == 0
