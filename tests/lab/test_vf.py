"""`wirespeed vf` with igb's PFs: VFs are created, bound and removed, or nothing is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import VFS_PER_PF, LabVfs, bind, sh, state_of_everything
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.snapshot import LinkState
from wirespeed.errors import Error, Kind
from wirespeed.node import NodeConfig
from wirespeed.provision import facts, plan
from wirespeed.provision.policy import Group, Wanted

PF = "ens2"
POLICY = """\
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata: {name: dpdk}
spec: {resourceName: dpdk, nicSelector: {pfNames: ["ens2#2-3,5"]}, numVfs: 6, deviceType: vfio-pci}
---
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata: {name: kernel}
spec: {resourceName: kernel, nicSelector: {pfNames: ["ens2#0-1"], vendor: "8086"}, numVfs: 6, mtu: 1600}
"""


@pytest.fixture(autouse=True)
def _vfs_as_the_other_tests_have_them(vfs: LabVfs) -> Iterator[None]:
    """Restore the PF's four VFs after each test, the last two bound to vfio-pci."""
    yield
    sh("ip", "link", "set", PF, "up", "mtu", "1500")
    device = Path(f"/sys/class/net/{PF}/device")
    (device / "sriov_numvfs").write_text("0")
    (device / "sriov_numvfs").write_text(str(VFS_PER_PF))
    for _, address in PciDevice(device.resolve().name).virtual_functions()[2:]:
        bind(address, "vfio-pci")


def wirespeed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wirespeed", "vf", *arguments], capture_output=True, text=True, check=False
    )


def pf() -> facts.Pf:
    found = facts.find(facts.read(), PF)
    assert found is not None
    return found


def netdevs() -> list[LinkState]:
    """The interfaces of the VFs that have one."""
    return [vf.state.link for vf in pf().vfs if vf.state.link is not None]


def drivers() -> list[str]:
    return [vf.state.driver for vf in pf().vfs]


def test_a_policy_makes_the_vfs_and_the_second_time_has_nothing_to_do(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    planned = wirespeed("apply", str(policy), "--dry-run")
    assert (planned.returncode, drivers()) == (0, ["igbvf", "igbvf", "vfio-pci", "vfio-pci"])
    assert planned.stdout.splitlines() == [
        "PF ens2 (0000:02:00.0): MTU 1600 (now 1500)",
        "PF ens2 (0000:02:00.0): remove its 4 VFs",
        "PF ens2 (0000:02:00.0): make 6 VFs",
        "PF ens2 (0000:02:00.0): VF 0: MTU 1600",
        "PF ens2 (0000:02:00.0): VF 1: MTU 1600",
        "PF ens2 (0000:02:00.0): VF 2: driver vfio-pci",
        "PF ens2 (0000:02:00.0): VF 3: driver vfio-pci",
        "PF ens2 (0000:02:00.0): VF 5: driver vfio-pci",
    ]
    done = wirespeed("apply", str(policy), "--yes")
    assert done.returncode == 0, done.stderr
    assert drivers() == ["igbvf", "igbvf", "vfio-pci", "vfio-pci", "igbvf", "vfio-pci"]
    assert [netdev.mtu for netdev in netdevs()[:2]] == [1600, 1600]
    assert wirespeed("apply", str(policy), "--yes").stdout == "nothing to do\n"


def test_a_vf_on_vfio_keeps_the_mac_that_it_had() -> None:
    macs = [netdev.mac for netdev in netdevs()]
    assert wirespeed("bind", f"{PF}#0-1", "--driver", "vfio-pci", "--yes").returncode == 0
    held = json.loads(sh("ip", "-d", "-j", "link", "show", PF))[0]["vfinfo_list"]
    assert [held[0]["address"], held[1]["address"]] == macs
    assert wirespeed("bind", f"{PF}#0-1", "--driver", "netdevice", "--yes").returncode == 0
    assert [netdev.mac for netdev in netdevs()] == macs


def test_vfs_are_made_quickly_on_a_pf_that_was_down() -> None:
    assert wirespeed("destroy", PF, "--yes").returncode == 0
    sh("ip", "link", "set", PF, "down")
    made = wirespeed("create", PF, "2", "--yes")
    assert made.stdout.splitlines()[:2] == ["PF ens2 (0000:02:00.0): up", "PF ens2 (0000:02:00.0): make 2 VFs"]
    assert len(netdevs()) == 2


@pytest.mark.parametrize("use", ["address", "bridge", "namespace", "vfio", "journal"])
def test_a_vf_in_use_is_refused_and_nothing_is_changed(use: str, tmp_path: Path) -> None:
    vf = pf().vfs[2 if use == "vfio" else 0]
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"state": f"{tmp_path}/state.db", "kubelet": f"{tmp_path}/kubelet"}))
    with Use(vf, use, tmp_path / "state.db") as told:
        before = state_of_everything()
        for command in (("destroy", PF), ("create", PF, "6"), ("bind", vf.device.address, "--driver", other(vf))):
            refused = wirespeed(*command, "--yes", "--config", str(config))
            assert refused.returncode == 1, command
            assert "nothing is changed" in refused.stderr
            assert f"({vf.device.address})" in refused.stderr
            assert told in refused.stderr
        assert state_of_everything() == before


def other(vf: facts.VfFacts) -> str:
    return "netdevice" if vf.device.is_in_user_space else "vfio-pci"


class Use:
    """Uses a VF in one of the ways that are detected. Entering it returns the expected text about the use."""

    def __init__(self, vf: facts.VfFacts, use: str, journal: Path) -> None:
        self.device, self.use, self.journal = vf.device, use, journal
        self.name = vf.state.link.name if vf.state.link else ""
        self.file: Any = None

    def __enter__(self) -> str:
        name = self.name
        if self.use == "address":
            sh("ip", "address", "add", "192.0.2.1/24", "dev", name)
            return f"its interface {name} has the address 192.0.2.1/24"
        if self.use == "bridge":
            sh("ip", "link", "add", "lab-br", "type", "bridge")
            sh("ip", "link", "set", name, "master", "lab-br")
            return f"its interface {name} is a port of lab-br"
        if self.use == "namespace":
            sh("ip", "netns", "add", "lab-use")
            sh("ip", "link", "set", name, "netns", "lab-use")
            return "its interface is in another network namespace"
        if self.use == "vfio":
            self.file = open(f"/dev/vfio/{self.device.iommu_group}", "rb")
            return f"process {os.getpid()} ("
        claim(self.journal, self.device.address)
        return "it is net1 of container c1"

    def __exit__(self, *_: object) -> None:
        if self.use == "address":
            sh("ip", "address", "del", "192.0.2.1/24", "dev", self.name)
        elif self.use == "bridge":
            sh("ip", "link", "del", "lab-br")
        elif self.use == "namespace":
            sh("ip", "-n", "lab-use", "link", "set", self.name, "netns", "1")
            sh("ip", "netns", "del", "lab-use")
        elif self.use == "vfio":
            self.file.close()


def claim(journal: Path, address: str) -> None:
    """Write a claim into a journal: the device is net1 of c1."""
    from wirespeed.kernel.netns import Identity
    from wirespeed.state.journal import DeviceClaim, Journal

    held = Journal(journal)
    held.claim(
        DeviceClaim(
            device=address, plugin="sriov", container="c1", ifname="net1", netns="/n", identity=Identity(1, 2, 3)
        )
    )
    held.close()


def test_a_step_that_fails_takes_back_those_before_it() -> None:
    sh("ip", "link", "set", netdevs()[0].name, "mtu", "1400")
    sh("ip", "link", "set", PF, "vf", "1", "vlan", "100", "qos", "3")
    sh("ip", "link", "set", PF, "vf", "2", "trust", "on", "spoofchk", "off")
    Path(f"/sys/bus/pci/devices/{pf().vfs[1].device.address}/driver/unbind").write_text(pf().vfs[1].device.address)
    before = as_they_are()
    groups = (
        Group(resource="", numbers=frozenset({0}), device_type="vfio-pci"),
        # Debian has no such module, so its group fails
        Group(resource="", numbers=frozenset({1}), device_type="igb_uio"),
    )
    wanted = Wanted(num_vfs=6, mtu=1700, groups=groups)
    with pytest.raises(Error) as failed:
        plan.carry_out(plan.make({pf().address: wanted}, [pf()]), NodeConfig())
    assert failed.value.kind == Kind.DEVICE
    assert "VF 1: driver igb_uio: " in failed.value.msg
    assert "there is no driver igb_uio" in failed.value.msg
    assert "; the changes before it were undone" in failed.value.msg
    assert as_they_are() == before
    assert pf().mtu == 1500


def as_they_are() -> list[dict[str, Any]]:
    """The VFs without their IOMMU groups, because the kernel assigns new numbers to recreated VFs."""
    (shown,) = [each for each in json.loads(wirespeed("list", "--json").stdout) if each["name"] == PF]
    return [vf | {"iommuGroup": ""} for vf in shown["vfs"]]


def test_a_vf_that_was_bound_in_vain_is_what_it_was() -> None:
    before = as_they_are()
    groups = (
        Group(resource="", numbers=frozenset({0}), device_type="vfio-pci"),
        Group(resource="", numbers=frozenset({2}), device_type="netdevice", mtu=1400),
        Group(resource="", numbers=frozenset({3}), device_type="igb_uio"),
    )
    wanted = Wanted(num_vfs=VFS_PER_PF, groups=groups)
    with pytest.raises(Error, match="; the changes before it were undone"):
        plan.carry_out(plan.make({pf().address: wanted}, [pf()]), NodeConfig())
    assert as_they_are() == before


@pytest.mark.parametrize("command", [("destroy", PF), ("bind", f"{PF}#0-1", "--driver", "vfio-pci")])
def test_a_vf_that_is_given_away_while_a_person_reads_the_plan_is_left_alone(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"state": f"{tmp_path}/state.db", "kubelet": f"{tmp_path}/kubelet"}))
    before, address = state_of_everything(), pf().vfs[1].device.address
    asking = subprocess.Popen(
        [sys.executable, "-u", "-m", "wirespeed", "vf", *command, "--config", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asking.stdin is not None
    assert asking.stdout is not None
    assert asking.stdout.readline().startswith("PF ens2")  # the plan is complete
    claim(tmp_path / "state.db", address)
    _, told = asking.communicate("y\n")
    assert asking.returncode == 1
    assert f"in use now: {address}: it is net1 of container c1; the changes before it were undone" in told
    assert state_of_everything() == before


def test_a_pf_that_somebody_else_provides_for_is_checked_and_only_its_vfs_are_changed() -> None:
    group = Group(resource="", numbers=frozenset({0}), device_type="vfio-pci")
    wanted = Wanted(num_vfs=4, externally_managed=True, groups=(group,))
    made = plan.make({pf().address: wanted}, [pf()])
    assert [change.what for change in made.changes] == [
        f"PF ens2 (0000:02:00.0): VF 0 ({pf().vfs[0].device.address}): driver vfio-pci (now igbvf)"
    ]
    more = Wanted(num_vfs=5, mtu=9000, eswitch="switchdev", externally_managed=True)
    assert [(error.expected, error.got) for error in plan.make({pf().address: more}, [pf()]).refused] == [
        ("at least 5 VFs", 4),
        ("an MTU of at least 9000", 1500),
        ("eswitch mode switchdev", "legacy"),
    ]


def test_a_driver_without_an_eswitch_says_so_and_all_is_as_before() -> None:
    before = drivers()
    with pytest.raises(Error, match="eswitch mode switchdev"):
        plan.carry_out(plan.make({pf().address: Wanted(num_vfs=4, eswitch="switchdev")}, [pf()]), NodeConfig())
    assert drivers() == before
