"""A PF in switchdev mode: the kernel's simulator netdevsim, with real representors and an Open vSwitch.

netdevsim's PF is not on a PCI bus, and its VFs have no interfaces. So the agent gets a fake sysfs, in which the PF
has netdevsim's interface and the VF is one of igb's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    make_runtime,
    pf_of,
    serving,
    sh,
)
from tests.lab.test_crash import count_instants, forked_agent, left_behind
from tests.node.vhost.conftest import Switch
from wirespeed.cni.errors import Code
from wirespeed.devices.pci import PciDevice

pytestmark = pytest.mark.usefixtures("unchanged", "ready_to_fork")

PF, MAC = "0000:18:00.0", "02:00:00:00:00:aa"
SIMULATOR = Path("/sys/bus/netdevsim")
Namespaces = Callable[[], str]


@dataclass(frozen=True)
class Card:
    """The PF in switchdev mode, its VF 0, the VF's representor, and a switch with the bridge br0."""

    vf: str
    runtime: Runtime
    switch: Switch

    @property
    def uplink(self) -> str:
        return self._interface("p1")

    @property
    def representor(self) -> str:
        return self._interface("pf0vf0")

    @property
    def vf_settings(self) -> dict[str, Any]:
        (shown,) = json.loads(sh("ip", "-d", "-j", "link", "show", self.uplink))
        found: dict[str, Any] = shown["vfinfo_list"][0]
        return found

    def state(self) -> dict[str, Any]:
        """What `ip -d -j link` shows for the interfaces of the card and the VF, and the ports of the bridge."""
        names = {path.name for path in SIMULATOR.glob("devices/netdevsim1/net/*")}
        names |= {path.name for path in Path(f"/sys/bus/pci/devices/{self.vf}/net").iterdir()}
        links = {link["ifname"]: link for link in json.loads(sh("ip", "-d", "-j", "link", "show"))}
        # qdisc is only set once the interface has been up
        volatile = {"ifindex", "operstate", "linkmode", "flags", "qdisc"}
        shown: dict[str, Any] = {
            name: {key: value for key, value in links[name].items() if key not in volatile}
            | {"up": "UP" in links[name]["flags"]}
            for name in names
        }
        return shown | {"ports": self.switch.ports()}

    def _interface(self, port: str) -> str:
        found = [
            path.parent.name
            for path in SIMULATOR.glob("devices/netdevsim1/net/*/phys_port_name")
            if path.read_text().strip() == port
        ]
        return found[0]


def make_sysfs(root: Path, vf: str) -> str:
    """A sysfs with a PCI device that has the simulator's interfaces, and igb's VF as its VF 0."""
    for address in (PF, vf):
        (root / "bus/pci/devices" / address).mkdir(parents=True)
    pf = root / "bus/pci/devices" / PF
    links = {
        root / "class": "/sys/class",
        pf / "net": str(SIMULATOR / "devices/netdevsim1/net"),
        pf / "driver": str(SIMULATOR / "drivers/netdevsim"),
        pf / "virtfn0": f"../{vf}",
        root / "bus/pci/devices" / vf / "physfn": f"../{PF}",
        root / "bus/pci/devices" / vf / "net": f"/sys/bus/pci/devices/{vf}/net",
        root / "bus/pci/devices" / vf / "driver": "/sys/bus/pci/drivers/igbvf",
    }
    for link, target in links.items():
        link.symlink_to(target)
    return str(root)


@pytest.fixture(scope="module")
def simulator() -> Iterator[None]:
    """The simulator with one VF, in switchdev mode."""
    sh("modprobe", "netdevsim")
    (SIMULATOR / "new_device").write_text("1 1")
    try:
        (SIMULATOR / "devices/netdevsim1/sriov_numvfs").write_text("1")
        sh("devlink", "dev", "eswitch", "set", "netdevsim/netdevsim1", "mode", "switchdev")
        yield
    finally:
        (SIMULATOR / "del_device").write_text("1")


@pytest.fixture(scope="module")
def running_switch() -> Iterator[Switch]:
    """An Open vSwitch in the node's own namespace, with the bridge br0 in the kernel datapath."""
    sh("modprobe", "openvswitch")
    folder = Path(tempfile.mkdtemp(prefix="ws-ovs-", dir="/tmp"))
    sh("ip", "netns", "attach", "node", "1")
    switch = Switch(folder, "node", Path())
    try:
        switch.start_database()
        switch.configure(dpdk_init="false")
        switch.start()
        switch.vsctl("add-br", "br0")
        yield switch
    finally:
        switch.close()
        sh("ip", "netns", "del", "node")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trusted_vf(vfs: LabVfs) -> Iterator[str]:
    """A trusted VF of igb: its MAC can be changed without its real PF, which the plugin does not see."""
    vf = vfs.kernel[0]
    of_vf = ("ip", "link", "set", pf_of(vf), "vf", str(PciDevice(vf).vf_index))
    sh(*of_vf, "trust", "on")
    yield vf
    sh(*of_vf, "trust", "off")


@pytest.fixture(scope="module")
def card(
    trusted_vf: str, simulator: None, running_switch: Switch, tmp_path_factory: pytest.TempPathFactory
) -> Card:
    folder, sysfs = tmp_path_factory.mktemp("wirespeed"), make_sysfs(tmp_path_factory.mktemp("sysfs"), trusted_vf)
    runtime = make_runtime(folder, sysfs=sysfs, vhost={"ovsdb": running_switch.remote})
    return Card(trusted_vf, runtime, running_switch)


def wanted(card: Card) -> dict[str, Any]:
    """A configuration that changes everything that can be changed."""
    info = {"CNIDeviceInfoFile": str(card.runtime.folder / "devinfo/cni/default-data-crash_net1")}
    keys = {"mtu": 1400, "trust": "on", "spoofchk": "on", "link_state": "enable", "mac": MAC, "vlan": 5}
    return conf(card.vf, bridge="br0", ipam=host_local(), runtimeConfig=info, **keys)


def test_a_vf_goes_into_its_pod_and_its_representor_into_the_bridge(card: Card, namespaces: Namespaces) -> None:
    netns, before, asked = namespaces(), card.state(), wanted(card)
    with serving(card.runtime) as runtime:
        added = runtime.add("switched", asked, netns)
        assert added.code == 0, added.body
        during = card.vf_settings
        assert (during["address"], during["trust"], during["spoofchk"]) == (MAC, True, True)
        # the VLAN is set on the switch port instead
        assert "vlan_list" not in during or during["vlan_list"][0].get("vlan") is None
        link = link_in(netns, "net1")
        assert link is not None
        assert (link["mtu"], link["address"]) == (1400, MAC)
        assert card.switch.ports() == [card.representor]
        assert card.switch.get("Port", card.representor, "tag") == "5"
        (shown,) = json.loads(sh("ip", "-j", "link", "show", card.representor))
        assert "UP" in shown["flags"]
        assert shown["mtu"] == 1400
        info = json.loads(Path(asked["runtimeConfig"]["CNIDeviceInfoFile"]).read_text())
        assert info["pci"]["representor-device"] == card.representor
        assert runtime.call("CHECK", "switched", asked | {"prevResult": added.body}, netns=netns).code == 0
        card.switch.vsctl("del-port", card.representor)
        in_namespace(netns, "ip", "link", "set", "net1", "mtu", "1300")
        drifted = runtime.call("CHECK", "switched", asked | {"prevResult": added.body}, netns=netns)
        assert f"Open vSwitch has no port {card.representor}" in drifted.body["msg"]
        assert runtime.delete("switched", asked, netns).code == 0
    assert card.state() == before


def test_a_pf_in_legacy_mode_has_no_representors_to_attach(card: Card, namespaces: Namespaces) -> None:
    sh("devlink", "dev", "eswitch", "set", "netdevsim/netdevsim1", "mode", "legacy")
    try:
        with serving(card.runtime) as runtime:
            refused = runtime.add("legacy", wanted(card), namespaces())
        assert refused.body["code"] == Code.DEVICE
        assert "it has no representor on the host; expected its PF in switchdev mode" in refused.body["msg"]
    finally:
        sh("devlink", "dev", "eswitch", "set", "netdevsim/netdevsim1", "mode", "switchdev")


def delete_ends_clean(card: Card, netns: str, before: dict[str, Any], what: str) -> None:
    with forked_agent(card.runtime):
        deleted = card.runtime.delete("crash", wanted(card), netns)
    assert deleted.code == 0, f"{what}: {deleted.body}"
    assert card.state() == before, what
    assert left_behind(card.runtime) == [], what


def test_killed_at_every_instant_of_an_add_then_del(card: Card, namespaces: Namespaces) -> None:
    before, netns = card.state(), namespaces()
    number, added = 0, False
    while not added:  # an ADD that succeeds has fewer instants than this number
        number += 1
        with forked_agent(card.runtime, verb="ADD", die_at=number):
            answer = card.runtime.add("crash", wanted(card), netns)
        added = answer.code == 0
        assert added or answer.body["code"] == Code.TRY_AGAIN_LATER, f"instant {number}: {answer.body}"
        delete_ends_clean(card, netns, before, f"instant {number}")
    assert number > 24


def test_killed_at_every_instant_of_a_del_then_del(card: Card, namespaces: Namespaces) -> None:
    before = card.state()
    number, instants = 0, 1
    while number < instants:
        number += 1
        netns = namespaces()
        with forked_agent(card.runtime, verb="DEL", die_at=number) as told:
            added = card.runtime.add("crash", wanted(card), netns)
            assert added.code == 0, added.body
            ended = card.runtime.delete("crash", wanted(card), netns)
            instants = number + 1 if ended.code else count_instants(told)
        delete_ends_clean(card, netns, before, f"instant {number}")
    assert instants > 20
