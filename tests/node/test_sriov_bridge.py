"""Representors as ports of a real Open vSwitch with its userspace datapath.

A veth pair acts as a VF and its representor. PF and VFs are those of a fake sysfs, with the VFs bound to vfio-pci:
the VF's end stays in place, like a device that an application uses.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from tests.node.conftest import Netns
from tests.node.vhost.conftest import VSWITCHD, Switch, missing
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns as namespaces
from wirespeed.node import Node, NodeConfig, VhostConfig
from wirespeed.plugins.sriov import sriov
from wirespeed.state.locks import device_lock

PF = "0000:18:00.0"
VFS = 3
Pods = Callable[[], Netns]


@dataclass
class Host:
    """A node in a network namespace, with a switch. Its plugin is called in the same way as by the agent."""

    node: Node
    net: Netns
    switch: Switch
    vfs: list[str]
    folder: Path
    before: dict[str, Any] = field(default_factory=dict)

    def call(
        self, verb: str, conf: dict[str, Any], pod: Netns | None, ifname: str = "net1", *, within: float = math.inf
    ) -> Any:
        request = Request(command=verb, config=conf, deadline=time.monotonic() + within)
        if pod is not None:
            request = request.derive(container_id=pod.name, netns=pod.path, ifname=ifname)
        plugin = self.node.plugin(conf["type"])
        verbs = {"ADD": "add", "DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}
        with namespaces.opened(self.net.path) as ns:
            return namespaces.inside(ns.fd, lambda: getattr(plugin, verbs[verb])(request))

    def add(self, conf: dict[str, Any], pod: Netns) -> Result:
        added: Result = self.call("ADD", conf, pod)
        return added

    def delete(self, conf: dict[str, Any], pod: Netns) -> None:
        self.call("DEL", conf, pod)

    def conf(self, number: int = 0, **keys: Any) -> dict[str, Any]:
        own = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": self.vfs[number]}
        return own | {"bridge": "br0"} | keys

    def representors(self) -> dict[str, tuple[bool, int]]:
        """Whether each representor is up, and its MTU."""
        links = self.net.links()
        return {
            name: ("UP" in link["flags"], link["mtu"]) for name, link in links.items() if name.startswith("rep")
        }

    def port(self, number: int = 0, column: str = "tag") -> str:
        return self.switch.get("Port", f"rep{number}", column)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Switch, Netns]]:
    """A running switch in its own network namespace."""
    if not VSWITCHD.exists() or shutil.which("ovsdb-server") is None:
        missing("needs Open vSwitch: apt-get install openvswitch-switch-dpdk")
    folder = Path(tempfile.mkdtemp(prefix="ws-ovs-", dir="/tmp"))
    net = Netns(folder.name, f"/run/netns/{folder.name}")
    net.add()
    switch = Switch(folder, net.name, Path())
    try:
        switch.start_database()
        switch.configure(dpdk_init="false")
        switch.start()
        yield switch, net
    finally:
        switch.close()
        net.delete()
        shutil.rmtree(folder)


@pytest.fixture
def host(started: tuple[Switch, Netns], tmp_path: Path) -> Iterator[Host]:
    """A node with a bridge br0. After the test it must be in its earlier state."""
    switch, net = started
    sysfs = FakeSysfs(tmp_path / "sys")
    vfs = sysfs.pf(PF, "pf0", vfs=VFS, vf_driver="vfio-pci", phys_switch_id="ab12", phys_port_name="p0")
    net.run("ip", "link", "add", "pf0", "type", "bridge")
    for number in range(VFS):
        net.run("ip", "link", "add", f"rep{number}", "type", "veth", "peer", "name", f"vf{number}")
        sysfs.interface(PF, f"rep{number}", phys_switch_id="ab12", phys_port_name=f"pf0vf{number}")
    switch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev")
    config = NodeConfig(
        state=str(tmp_path / "run/state.db"),
        leases=str(tmp_path / "leases"),
        devinfo=str(tmp_path / "devinfo"),
        sysfs=str(sysfs.root),
        vhost=VhostConfig(ovsdb=switch.remote),
    )
    made = Host(Node(config), net, switch, vfs, tmp_path)
    before = switch.snapshot(), made.representors()
    yield made
    after = switch.snapshot(), made.representors()
    claims = made.node.journal.claims()
    made.node.close()
    switch.vsctl("del-br", "br0")
    for name in ("pf0", *(f"rep{number}" for number in range(VFS))):
        net.run("ip", "link", "del", name)
    assert (after, claims) == (before, [])


def test_the_representor_is_a_port_of_the_bridge_while_the_pod_has_the_vf(host: Host, netns: Pods) -> None:
    pod, info = netns(), host.folder / "devinfo/cni/info"
    conf = host.conf(vlan=5, max_tx_rate=100, runtimeConfig={"CNIDeviceInfoFile": str(info)})
    before = host.representors()
    added = host.add(conf, pod)
    assert host.switch.ports() == ["rep0"]
    assert host.port() == "5"
    assert host.switch.get("Interface", "rep0", "ingress_policing_rate") == "100000"
    assert host.switch.get("Port", "rep0", "external_ids:wirespeed-sriov-container") == pod.name
    assert host.representors() == before | {"rep0": (True, 1500)}
    assert json.loads(info.read_text())["pci"]["representor-device"] == "rep0"
    host.call("CHECK", conf | {"prevResult": added}, pod)
    for _ in range(2):
        host.delete(conf, pod)
        assert host.switch.ports() == []
        assert host.representors() == before


def test_pods_of_one_vlan_reach_each_other_and_no_other_pod(host: Host, netns: Pods) -> None:
    pods = [netns() for _ in range(VFS)]
    vlans = [{"vlan": 5}, {"vlan": 5}, {"vlan": 6}]
    for number, (pod, keys) in enumerate(zip(pods, vlans, strict=True)):
        host.add(host.conf(number, **keys), pod)
        host.net.run("ip", "link", "set", f"vf{number}", "netns", pod.name, "name", "net1", "up")
        pod.run("ip", "address", "add", f"10.1.0.{number + 1}/24", "dev", "net1")
    pods[0].run("ping", "-c1", "-W5", "10.1.0.2")
    with pytest.raises(subprocess.CalledProcessError):
        pods[0].run("ping", "-c1", "-W1", "10.1.0.3")
    for number, (pod, keys) in enumerate(zip(pods, vlans, strict=True)):
        pod.run("ip", "link", "set", "net1", "netns", host.net.name, "name", f"vf{number}")
        host.delete(host.conf(number, **keys), pod)


def test_a_port_carries_several_vlans_tagged_and_one_untagged(host: Host, netns: Pods) -> None:
    pod, conf = netns(), host.conf(vlan=5, trunk=[7, 6])
    added = host.add(conf, pod)
    assert (host.port(), host.port(column="trunks")) == ("5", "[6, 7]")
    assert host.port(column="vlan_mode") == "native-untagged"
    host.call("CHECK", conf | {"prevResult": added}, pod)
    host.delete(conf, pod)


def test_a_bridge_that_is_not_there_is_refused(host: Host, netns: Pods) -> None:
    with pytest.raises(Error, match='key "bridge": Open vSwitch has no bridge br7') as refused:
        host.add(host.conf(bridge="br7"), netns())
    assert refused.value.kind == Kind.DEVICE


def test_a_vf_without_a_representor_is_refused(host: Host, netns: Pods) -> None:
    host.net.run("ip", "link", "set", "rep0", "name", "other")
    with pytest.raises(Error, match='key "bridge": it has no representor on the host'):
        host.add(host.conf(), netns())
    host.net.run("ip", "link", "set", "other", "name", "rep0")


def test_a_representor_in_a_bridge_of_the_kernel_is_refused(host: Host, netns: Pods) -> None:
    host.net.run("ip", "link", "set", "rep0", "master", "pf0")
    with pytest.raises(Error, match='key "bridge": its representor rep0 is already a port of pf0'):
        host.add(host.conf(), netns())
    host.net.run("ip", "link", "set", "rep0", "nomaster")


def test_a_port_that_somebody_else_made_is_left_alone(host: Host, netns: Pods) -> None:
    host.switch.vsctl("add-port", "br0", "rep0", "tag=9")
    pod = netns()
    with pytest.raises(Error, match="representor rep0 is already a port of Open vSwitch") as refused:
        host.add(host.conf(), pod)
    assert refused.value.kind == Kind.INTERFACE
    host.delete(host.conf(), pod)
    assert host.port() == "9"
    host.switch.vsctl("del-port", "rep0")


def forget(host: Host) -> None:
    """Clear the journal, as a reboot does."""
    for claim in host.node.journal.claims():
        host.node.journal.release(claim)
        host.net.run("ip", "link", "set", "rep0", "down", "mtu", "1500")


def test_a_port_of_a_journal_that_is_gone_is_replaced(host: Host, netns: Pods) -> None:
    host.add(host.conf(vlan=5), netns())
    forget(host)
    pod = netns()
    host.add(host.conf(vlan=6), pod)
    assert (host.switch.ports(), host.port()) == (["rep0"], "6")
    host.delete(host.conf(), pod)


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_a_port_of_a_journal_that_is_gone_is_removed(host: Host, netns: Pods, verb: str) -> None:
    lost, kept = netns(), netns()
    host.add(host.conf(), lost)
    forget(host)
    host.add(host.conf(1), kept)
    valid = [{"containerID": kept.name, "ifname": "net1"}]
    host.call(verb, host.conf() | {"cni.dev/valid-attachments": valid}, lost if verb == "DEL" else None)
    assert host.switch.ports() == ["rep1"]
    host.delete(host.conf(1), kept)


def test_gc_takes_the_port_of_a_pod_that_is_gone(host: Host, netns: Pods) -> None:
    host.add(host.conf(), netns())
    host.call("GC", host.conf() | {"cni.dev/valid-attachments": []}, None)
    assert host.switch.ports() == []


def test_check_tells_what_became_of_the_port(host: Host, netns: Pods) -> None:
    pod, conf = netns(), host.conf(vlan=5)
    added = host.add(conf, pod)
    host.switch.vsctl("set", "Port", "rep0", "tag=7")
    host.net.run("ip", "link", "set", "rep0", "down")
    with pytest.raises(Error) as found:
        host.call("CHECK", conf | {"prevResult": added}, pod)
    assert found.value.kind == Kind.DRIFT
    for told in ("its representor rep0 is down", "port rep0: tag is 7, expected 5"):
        assert told in found.value.msg
    host.switch.vsctl("--no-wait", "del-port", "rep0")
    with pytest.raises(Error, match="Open vSwitch has no port rep0"):
        host.call("CHECK", conf | {"prevResult": added}, pod)
    host.delete(conf, pod)


def test_an_add_while_the_database_is_down_leaves_nothing(host: Host, netns: Pods) -> None:
    pod = netns()
    host.switch.stop_database()
    try:
        with pytest.raises(Error, match="Open vSwitch database") as refused:
            host.add(host.conf(), pod)
        assert refused.value.kind == Kind.TRY_AGAIN
        assert host.node.journal.claims() == []
        with pytest.raises(Error) as unwell:
            host.call("STATUS", host.conf(), None)
        assert unwell.value.kind == Kind.UNAVAILABLE
    finally:
        host.switch.start_database()


def test_an_add_while_the_switch_is_down_is_undone(
    host: Host, netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.switches.ovsdb.ANSWER_TIMEOUT", 1.0)
    host.switch.stop()
    try:
        with pytest.raises(Error, match="ovs-vswitchd did not create port rep0 in time"):
            host.add(host.conf(), netns())
        assert host.switch.ports() == []
        assert host.node.journal.claims() == []
    finally:
        host.switch.start()


def test_a_del_while_the_database_is_down_succeeds_and_its_port_goes_later(host: Host, netns: Pods) -> None:
    pod, before = netns(), host.representors()
    host.add(host.conf(), pod)
    host.switch.stop_database()
    try:
        for _ in range(2):
            host.delete(host.conf(), pod)
            assert host.representors() == before
        with pytest.raises(Error, match="its representor is still a port of br0, and Open") as busy:
            host.add(host.conf(bridge=None), netns())  # the VF would still be a port of the bridge
        assert busy.value.kind == Kind.TRY_AGAIN
    finally:
        host.switch.start_database()
    assert host.switch.ports() == ["rep0"]
    other = netns()
    host.add(host.conf(1), other)
    assert host.switch.ports() == ["rep1"]
    host.delete(host.conf(1), other)


def test_an_attachment_that_was_made_again_is_not_taken_for_the_removal_that_it_was(
    host: Host, netns: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, other, conf = netns(), netns(), host.conf()
    host.add(conf, pod)
    host.switch.stop_database()
    try:
        host.delete(conf, pod)
    finally:
        host.switch.start_database()
    before_the_lock_is_had = [lambda: host.add(conf, pod)]

    def locked_late(folder: Path, device: str, *, deadline: float) -> AbstractContextManager[None]:
        if before_the_lock_is_had:
            before_the_lock_is_had.pop()()
        return device_lock(folder, device, deadline=deadline)

    monkeypatch.setattr(sriov, "device_lock", locked_late)
    host.add(host.conf(1), other)  # first retries the pending removal; meanwhile another call holds the VF's lock
    assert host.switch.ports() == ["rep0", "rep1"]
    assert [claim.step for claim in host.node.journal.claims()] == ["attached", "attached"]
    host.delete(conf, pod)
    host.delete(host.conf(1), other)


def test_an_add_without_a_bridge_does_not_wait_for_a_database_that_hangs(host: Host, netns: Pods) -> None:
    pod, other, conf = netns(), netns(), host.conf(1, bridge=None)
    host.add(host.conf(), pod)
    with host.switch.database_hung():
        host.call("DEL", host.conf(), pod, within=1)
        assert [claim.step for claim in host.node.journal.claims()] == ["removing"]
        host.call("ADD", conf, other, within=10)  # the pending removal must not use up these 10 s
        host.delete(conf, other)
    host.delete(host.conf(), pod)
