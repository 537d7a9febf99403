"""CHECK, GC and STATUS of the SR-IOV plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import LabVfs, Runtime, bind, conf, host_local, in_namespace, link_in, sh
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged")

MAC = "02:00:00:00:00:aa"
Namespaces = Callable[[], str]


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


def test_check_finds_a_route_that_is_gone(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.kernel[0]
    ipam = host_local(routes=[{"dst": "0.0.0.0/0"}, {"dst": "192.168.7.0/24", "gw": "10.8.0.77"}])
    asked = conf(device, ipam=ipam)
    added = agent.add("routes", asked, netns)
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "routes", asked, netns=netns).body == {}
    in_namespace(netns, "ip", "route", "del", "192.168.7.0/24")
    found = agent.call("CHECK", "routes", asked, netns=netns)
    assert found.body["code"] == Code.DRIFT
    assert "route 192.168.7.0/24 via 10.8.0.77 is missing on net1" in found.body["msg"]
    assert "0.0.0.0/0" not in found.body["msg"]
    assert agent.delete("routes", asked, netns).code == 0


def test_check_finds_another_driver(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, device = namespaces(), vfs.vfio[0]
    asked = conf(device, vlan=5)
    added = agent.add("driver", asked, netns)
    asked["prevResult"] = added.body
    assert agent.call("CHECK", "driver", asked, netns=netns).code == 0
    bind(device, "igbvf")
    found = agent.call("CHECK", "driver", asked, netns=netns)
    assert "driver is igbvf, was vfio-pci" in found.body["msg"]
    bind(device, "vfio-pci")
    assert agent.delete("driver", asked, netns).code == 0


def test_check_of_an_attachment_that_is_none_says_so(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    found = agent.call("CHECK", "none", conf(vfs.kernel[0]) | {"prevResult": {}}, netns=namespaces())
    assert found.body["code"] == Code.UNKNOWN_CONTAINER


def test_gc_restores_what_no_valid_attachment_owns(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    kept, lost = namespaces(), namespaces()
    assert agent.add("kept", conf(vfs.kernel[0], vlan=5), kept).code == 0
    assert agent.add("lost", conf(vfs.kernel[1], vlan=6), lost).code == 0
    valid = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "net1"}]}
    assert agent.call("GC", "", conf(vfs.kernel[0]) | valid).code == 0
    assert link_in(lost, "net1") is None
    assert link_in(kept, "net1") is not None
    assert agent.delete("kept", conf(vfs.kernel[0]), kept).code == 0


def test_gc_of_one_network_leaves_another_alone(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    netns, asked = namespaces(), conf(vfs.kernel[0], vlan=5)
    assert agent.add("other", asked, netns).code == 0
    nothing: dict[str, object] = {"cni.dev/attachments": []}
    assert agent.call("GC", "", asked | nothing | {"name": "another"}).code == 0
    assert link_in(netns, "net1") is not None
    assert agent.call("GC", "", asked | nothing).code == 0
    assert link_in(netns, "net1") is None


def test_gc_gives_up_leases_as_well(agent: Runtime, vfs: LabVfs, namespaces: Namespaces) -> None:
    asked = conf(vfs.kernel[0], ipam=host_local(11))
    added = agent.add("leased", asked, namespaces())
    address = added.body["ips"][0]["address"].split("/")[0]
    lease = agent.folder / "leases/data" / address
    assert lease.exists()
    assert agent.call("GC", "", asked | {"cni.dev/valid-attachments": []}).code == 0
    assert not lease.exists()


def test_status_is_well_until_the_journal_cannot_be_relied_on(agent: Runtime, vfs: LabVfs) -> None:
    asked = conf(vfs.kernel[0], ipam=host_local())
    assert agent.call("STATUS", "", asked).code == 0
    state, away, other = (agent.folder / name for name in ("state.db", "state.away", "state.other"))
    away.hardlink_to(state)
    other.touch()
    other.replace(state)  # replaced, because a file that is only deleted is created anew
    try:
        found = agent.call("STATUS", "", asked)
        assert (found.code, found.body["code"]) == (1, Code.UNAVAILABLE)
        assert "journal" in found.body["msg"]
    finally:
        away.replace(state)
    assert agent.call("STATUS", "", asked).code == 0
