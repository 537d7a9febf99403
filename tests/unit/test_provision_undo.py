"""Rollback of steps on VFs, and VFs that are in use when their step is due.

A fake kernel reacts to writes to sysfs, and handles the rtnetlink and vdpa messages.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import pfs
from tests.fakesysfs import FakeSysfs, vf_address
from wirespeed.cli import vf as cli
from wirespeed.devices import restore, vfio
from wirespeed.devices.settings import NO_MAC
from wirespeed.errors import Error
from wirespeed.kernel.netlink import wait
from wirespeed.kernel.netlink.address import Interface
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.kernel.netns import Identity
from wirespeed.node import NodeConfig
from wirespeed.provision import facts, hold, plan, udev, vdpa
from wirespeed.provision.facts import Pf
from wirespeed.provision.policy import Group, Wanted
from wirespeed.state.journal import DeviceClaim, Journal
from wirespeed.state.locks import device_lock

PF = pfs.ADDRESS
VFS = [vf_address(PF, number) for number in range(8)]
FRESH = VfSettings(
    mac=NO_MAC, vlan=0, vlan_qos=0, vlan_proto=0x8100, min_tx_rate=0, max_tx_rate=0, spoofchk=True, trust=False
)
SETTINGS = {  # FRESH in JSON
    "mac": NO_MAC,
    "vlan": 0,
    "vlanPriority": 0,
    "vlanProtocol": "802.1q",
    "minRate": 0,
    "maxRate": 0,
    "spoofchk": True,
    "trust": False,
    "linkState": None,
    "nodeGuid": None,
    "portGuid": None,
}


@dataclass
class Netdev:
    index: int
    name: str
    mac: str
    mtu: int = 1500
    up: bool = False


class Kernel(Rtnl):
    """An ice PF, up, with VFs bound to iavf. `refuses` are settings that its driver rejects, or numbers of VFs."""

    def __init__(self, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sysfs = sysfs
        self.refuses: Collection[object] = ()
        self.netdevs: dict[str, Netdev] = {}
        self.held: list[VfSettings] = []
        self.late: Collection[str] = ()  # VFs whose driver has not created their interface yet
        self.in_reset = 0  # how often the VFs' driver still refuses a MAC
        self.count = 10
        self.written = Path.write_text
        sysfs.pf(PF, "ens1f0")
        for driver in ("iavf", "vfio-pci", "vhost_vdpa"):
            bus = "vdpa" if driver == "vhost_vdpa" else "pci"
            (sysfs.root / "bus" / bus / "drivers" / driver).mkdir(parents=True, exist_ok=True)

        def write_text(path: Path, text: str, **how: str) -> int:
            return self.write(path, text, **how)

        monkeypatch.setattr(Path, "write_text", write_text)
        monkeypatch.setattr(vdpa, "_request", self.request_vdpa)
        for module in (plan, facts, restore, wait):
            monkeypatch.setattr(module, "Rtnl", lambda: self)

    def close(self) -> None:
        """It has no socket to close."""

    # sysfs

    def write(self, path: Path, text: str, **how: str) -> int:
        """Write a sysfs file. Writes that trigger an action have no final newline; others only store the text."""
        if text.endswith("\n") or not path.is_relative_to(self.sysfs.root):
            return self.written(path, text, **how)
        if path.name == "sriov_numvfs":
            self.make_vfs(int(text))
        elif path.name == "unbind":
            self.drive(text, "")
        else:
            assert path.name == "drivers_probe"
            self.drive(text, self.sysfs.read(text, "driver_override").replace("(null)", "") or "iavf")
        return len(text)

    def make_vfs(self, number: int) -> None:
        if number in self.refuses:
            raise OSError(errno.ENOSPC, "No space left on device")
        for made in (self.sysfs.root / "bus/vdpa/devices").glob("*"):
            made.unlink()
        self.sysfs.set_vfs(PF, number, driver="")
        self.netdevs, self.held = {}, [FRESH] * number
        for address in VFS[:number]:
            self.drive(address, "iavf")

    def drive(self, address: str, driver: str) -> None:
        self.sysfs.bind(address, driver)
        if gone := self.netdevs.pop(address, None):
            self.sysfs.drop_interface(gone.name)
        if driver == "iavf" and address not in self.late:
            self.count += 1
            index = VFS.index(address)
            held = self.held[index].mac
            mac = f"02:00:00:00:00:{self.count:02x}" if held == NO_MAC else str(held)
            self.netdevs[address] = Netdev(self.count, f"ens1f0v{index}", mac)
            self.sysfs.interface(address, f"ens1f0v{index}")

    # Netlink

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        return next((link for link in self.links() if name in (link.name, link.index)), None)

    def links(self) -> list[Link]:
        pf = Link(
            index=7, name="ens1f0", mac="02:00:00:00:00:07", mtu=9000, flags=1, vfs=dict(enumerate(self.held))
        )
        return [pf] + [
            Link(parent=address, index=each.index, name=each.name, mac=each.mac, mtu=each.mtu, flags=int(each.up))
            for address, each in self.netdevs.items()
        ]

    def addresses(self, index: int) -> list[Interface]:
        return []

    def set_link(self, index: int, **given: object) -> None:
        address, netdev = next(found for found in self.netdevs.items() if found[1].index == index)
        if given.get("mac") and self.in_reset:
            self.in_reset -= 1
            raise NetlinkError(errno.EAGAIN, "Resource temporarily unavailable")
        if name := given.get("name"):
            self.sysfs.drop_interface(netdev.name)
            self.sysfs.interface(address, str(name))
        for key, value in given.items():
            if value is not None:
                setattr(netdev, key, value)

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        given = dict(settings.items())
        if not given.keys().isdisjoint(self.refuses):
            raise NetlinkError(errno.EOPNOTSUPP, "Operation not supported")
        self.held[vf] = replace(self.held[vf], **given)

    def request_vdpa(self, command: int, attributes: list[tuple[str, str | int]], _where: str) -> None:
        told = dict(attributes)
        name = str(told["VDPA_ATTR_DEV_NAME"])
        assert command == vdpa._NEW
        self.make_vdpa(str(told["VDPA_ATTR_MGMTDEV_DEV_NAME"]), name, "vhost_vdpa")

    def make_vdpa(self, address: str, name: str, driver: str) -> None:
        self.sysfs.vdpa(self.sysfs.path(address), name, driver)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(FakeSysfs(tmp_path / "sys"), monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(state=str(tmp_path / "state.db"), sysfs=str(tmp_path / "sys"), kubelet=str(tmp_path))


def now(kernel: Kernel) -> Pf:
    (found,) = facts.read(kernel.sysfs.root)
    return found


def group(*numbers: int, device_type: str) -> Group:
    return Group(resource="r", numbers=frozenset(numbers), device_type=device_type)


def carry_out(
    kernel: Kernel, wanted: Wanted, config: NodeConfig, at: Callable[[int], None] = lambda _: None
) -> str:
    """The error of a plan that fails. `at` is called with the number of each step before the step."""
    made = plan.make({PF: wanted}, [now(kernel)], kernel.sysfs.root)
    with pytest.raises(Error) as failed:
        plan.carry_out(made, config, lambda number, _step: at(number))
    return f"{failed.value.kind.name}: {failed.value.msg}"


def used_vfs(kernel: Kernel) -> Pf:
    """Four VFs: one up with name and MTU, one bound for DPDK with a VLAN, one without a driver, one with vdpa."""
    kernel.make_vfs(4)
    kernel.set_link(kernel.netdevs[VFS[0]].index, name="storage", mtu=9000, up=True)
    kernel.held[1] = replace(FRESH, mac="02:00:00:00:01:01", vlan=100, vlan_qos=3, max_tx_rate=1000, trust=True)
    kernel.sysfs.write(VFS[1], "driver_override", "vfio-pci")
    kernel.drive(VFS[1], "vfio-pci")
    kernel.drive(VFS[2], "")
    kernel.make_vdpa(VFS[3], "vdpa0", "vhost_vdpa")
    return now(kernel)


def test_vfs_are_listed_as_json(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    pf = used_vfs(kernel)
    monkeypatch.setattr(cli, "_facts", lambda _config: [pf])
    (listed,) = json.loads(CliRunner().invoke(cli.vf, ["list", "--json"]).stdout)
    assert (listed["name"], listed["totalVfs"], len(listed["vfs"])) == ("ens1f0", 256, 4)
    assert listed["vfs"][0] == {
        "address": VFS[0],
        "index": 0,
        "driver": "iavf",
        "netdev": "storage",
        "mac": "02:00:00:00:00:0b",
        "mtu": 9000,
        "numaNode": 0,
        "iommuGroup": str(0x19 << 8),
        "up": True,
        "driverOverride": "",
        "inUserSpace": False,
        "settings": SETTINGS,
        "vdpa": "",
        "vdpaType": "",
        "user": "",
    }
    assert [(vf["driverOverride"], vf["vdpa"], vf["vdpaType"]) for vf in listed["vfs"][1:]] == [
        ("vfio-pci", "", ""),
        ("", "", ""),
        ("", "vdpa0", "vhost"),
    ]
    assert listed["vfs"][1]["settings"] == SETTINGS | {
        "mac": "02:00:00:00:01:01",
        "vlan": 100,
        "vlanPriority": 3,
        "maxRate": 1000,
        "trust": True,
    }


def test_vfs_that_were_removed_in_vain_are_what_they_were(kernel: Kernel, config: NodeConfig) -> None:
    before = used_vfs(kernel)
    kernel.refuses = (8,)
    told = carry_out(kernel, Wanted(num_vfs=8), config)
    assert told.endswith("make 8 VFs: sriov_numvfs 8: No space left on device; the changes before it were undone")
    assert now(kernel) == before


def test_a_vf_whose_driver_takes_no_mac_for_a_while_has_its_mac_in_the_end(
    kernel: Kernel, config: NodeConfig
) -> None:
    before = used_vfs(kernel)
    kernel.refuses, kernel.in_reset = (8,), 2
    assert carry_out(kernel, Wanted(num_vfs=8), config).endswith("; the changes before it were undone")
    assert (now(kernel), kernel.in_reset) == (before, 0)


def test_a_new_interface_gets_its_name_after_udev_has_given_it_one(
    kernel: Kernel, config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(names: Iterable[str], **_: object) -> None:
        for name in names:
            link = kernel.link(name)
            assert link is not None
            kernel.set_link(link.index, name=f"udev{link.index}")

    before = used_vfs(kernel)
    kernel.refuses = (8,)
    monkeypatch.setattr(udev, "settle", settle)
    assert carry_out(kernel, Wanted(num_vfs=8), config).endswith("; the changes before it were undone")
    assert now(kernel).vfs[0] == before.vfs[0]


def test_what_removed_vfs_cannot_have_again_is_told(kernel: Kernel, config: NodeConfig) -> None:
    used_vfs(kernel)
    kernel.make_vdpa(VFS[0], "vdpa1", "")
    kernel.refuses = (8, "vlan", "trust")
    told = carry_out(kernel, Wanted(num_vfs=8), config)
    assert told.partition("; not undone: ")[2] == (
        f"PF ens1f0 ({PF}): remove its 4 VFs ("
        f"VF 0 ({VFS[0]}): its vdpa device vdpa1 had no driver, and cannot be created again without one; also "
        f"VF {VFS[1]} (VF 1 of PF {PF}, driver vfio-pci): not restored: vlan is 0, was 100 (Operation not "
        "supported), vlanQoS is 0, was 3 (Operation not supported), trust is False, was True (Operation not "
        "supported))"
    )
    # a rejected setting does not prevent the others
    assert [vf.max_tx_rate for vf in kernel.held] == [0, 1000, 0, 0]


@pytest.mark.parametrize("driver", ["iavf", ""])
def test_a_vf_that_was_bound_in_vain_is_what_it_was_on_its_pf_too(
    kernel: Kernel, config: NodeConfig, driver: str
) -> None:
    kernel.make_vfs(2)
    kernel.drive(VFS[0], driver)
    kernel.sysfs.write(VFS[0], "driver_override", driver)
    if driver:
        kernel.netdevs[VFS[0]].up = True
    before, held = now(kernel), [*kernel.held]
    groups = (group(0, device_type="vfio-pci"), group(1, device_type="igb_uio"))
    told = carry_out(kernel, Wanted(num_vfs=2, groups=groups), config)
    assert "there is no driver igb_uio" in told
    assert told.endswith("; the changes before it were undone")
    assert (now(kernel), kernel.held) == (before, held)


def claim(config: NodeConfig, address: str) -> None:
    """Claim the VF for a pod."""
    journal = Journal(Path(config.state))
    where = {"container": "c1", "ifname": "net1", "netns": "/n", "identity": Identity(1, 2, 3)}
    journal.claim(DeviceClaim(device=address, plugin="sriov", **where))  # type: ignore[arg-type]
    journal.close()


@pytest.mark.parametrize(
    ("wanted", "step"),
    [
        (Wanted(num_vfs=0), "remove its 2 VFs"),
        (Wanted(num_vfs=4), "remove its 2 VFs"),
        (Wanted(num_vfs=2, groups=(group(0, 1, device_type="vfio-pci"),)), f"VF 1 ({VFS[1]}): driver vfio-pci"),
        (Wanted(num_vfs=2, groups=(replace(group(1, device_type="netdevice"), mtu=4000),)), "MTU 4000"),
    ],
)
def test_a_vf_that_a_pod_got_after_the_plan_was_made_is_left_to_it(
    kernel: Kernel, config: NodeConfig, wanted: Wanted, step: str
) -> None:
    kernel.make_vfs(2)
    before = now(kernel)
    told = carry_out(kernel, wanted, config, lambda number: claim(config, VFS[1]) if number == 0 else None)
    assert told.startswith(f"POLICY: PF ens1f0 ({PF}): ")
    assert step in told
    assert f"in use now: {VFS[1]}: it is net1 of container c1; the changes before it were undone" in told
    assert now(kernel) == before


@pytest.mark.parametrize(
    ("driver", "node"), [("vfio-pci", "/dev/vfio/devices/vfio3"), ("uio_pci_generic", "/dev/uio1")]
)
def test_a_vf_that_an_application_opened_after_the_plan_was_made_is_left_to_it(
    kernel: Kernel, config: NodeConfig, monkeypatch: pytest.MonkeyPatch, driver: str, node: str
) -> None:
    kernel.make_vfs(1)
    kernel.drive(VFS[0], driver)
    kernel.sysfs.vfio_device(VFS[0], 3)
    kernel.sysfs.uio(VFS[0], 1)

    def opens(_number: int) -> None:
        monkeypatch.setattr(vfio, "users", lambda: {node: "process 10 (dpdk-testpmd)"})

    told = carry_out(kernel, Wanted(num_vfs=0), config, opens)
    assert f"in use now: {VFS[0]}: process 10 (dpdk-testpmd)" in told
    assert kernel.sysfs.read(PF, "sriov_numvfs") == "1"


def test_new_vfs_that_a_pod_got_meanwhile_are_not_taken_back(kernel: Kernel, config: NodeConfig) -> None:
    wanted = Wanted(num_vfs=2, groups=(group(0, device_type="igb_uio"),))
    told = carry_out(kernel, wanted, config, lambda number: claim(config, VFS[1]) if number == 1 else None)
    assert told.endswith(
        f"; not undone: PF ens1f0 ({PF}): make 2 VFs (in use now: {VFS[1]}: it is net1 of container c1)"
    )
    assert [vf.device.address for vf in now(kernel).vfs] == VFS[:2]


def test_a_vf_that_a_request_works_on_is_not_removed(
    kernel: Kernel, config: NodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.make_vfs(2)
    monkeypatch.setattr(hold, "_LOCK_TIMEOUT", 0.0)
    with device_lock(tmp_path / "locks", VFS[1], deadline=time.monotonic()):
        told = carry_out(kernel, Wanted(num_vfs=0), config)
    assert told.startswith("TRY_AGAIN: ")
    assert f"device {VFS[1]}: another request still works on it" in told
    assert [vf.device.address for vf in now(kernel).vfs] == VFS[:2]


def test_a_new_vf_whose_interface_is_still_to_come_is_not_taken_for_one_in_a_pod(
    kernel: Kernel, config: NodeConfig
) -> None:
    kernel.late = VFS
    wanted = Wanted(num_vfs=1, groups=(group(0, device_type="vfio-pci"),))
    plan.carry_out(plan.make({PF: wanted}, [now(kernel)], kernel.sysfs.root), config)
    assert now(kernel).vfs[0].state.driver == "vfio-pci"
