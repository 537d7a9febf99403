"""VFs of drivers that the lab lacks: a fake PF driver handles the messages, with a fake sysfs."""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.devices import rdma, settings, snapshot, vfio
from wirespeed.devices.pci import PciDevice
from wirespeed.devices.restore import drift, restore
from wirespeed.devices.settings import NO_MAC
from wirespeed.devices.vf import Vf, find
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.rdma import Rdma
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    LINK_STATES,
    VfSettings,
    pack_settings,
    unpack_settings,
)
from wirespeed.kernel.netns import Identity
from wirespeed.plugins.sriov import vf as vfs
from wirespeed.plugins.sriov.sriov import device_info

PF = "0000:18:00.0"
NOWHERE = ("/run/netns/none", Identity(0, 0, 0))
BEFORE = VfSettings(
    mac=NO_MAC,
    vlan=0,
    vlan_qos=0,
    vlan_proto=ETH_P_8021Q,
    min_tx_rate=0,
    max_tx_rate=1000,
    spoofchk=True,
    trust=False,
    link_state=LINK_STATES["auto"],
)
WANTED = VfSettings(
    mac="02:00:00:00:00:aa",
    vlan=100,
    vlan_qos=3,
    vlan_proto=ETH_P_8021AD,
    min_tx_rate=100,
    spoofchk=False,
    trust=True,
    link_state=LINK_STATES["enable"],
)


class PfDriver(Rtnl):
    """The PF's driver. It applies a message attribute by attribute, in the kernel's order, until it rejects one."""

    def __init__(self, *, refuses: Collection[str] = (), keeps_mac: bool = False) -> None:
        self.settings, self.refuses, self.keeps_mac = BEFORE, refuses, keeps_mac

    def close(self) -> None:
        """It has no socket to close."""

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        if name not in ("eth4", 7):
            return None
        return Link(index=7, name="eth4", mac="02:00:00:00:00:01", mtu=9000, flags=1, vfs={0: self.settings})

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        assert (pf_index, vf) == (7, 0)
        for attribute in pack_settings(vf, settings):
            part = dict(unpack_settings(attribute).items())
            if any(key in self.refuses for key in part):
                raise NetlinkError(errno.EOPNOTSUPP, "Operation not supported")
            if not (self.keeps_mac and part.get("mac") == NO_MAC):
                self.settings = replace(self.settings, **part)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def vf_of(sysfs: FakeSysfs, driver: str = "vfio-pci") -> PciDevice:
    (address,) = sysfs.pf(PF, "eth4", vfs=1, driver="mlx5_core", vf_driver=driver)
    return PciDevice(address, sysfs.root)


def put_back(driver: PfDriver, device: PciDevice, before: Vf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wirespeed.devices.restore.Rtnl", lambda: driver)
    restore(device, snapshot.take(before), NOWHERE, timeout=0, rdma={})


def test_rates_link_state_and_8021ad_are_set_and_put_back(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, device = PfDriver(), vf_of(sysfs)
    vf = find(driver, device)
    settings.apply(driver, vf, WANTED)
    assert driver.settings == replace(WANTED, max_tx_rate=1000)  # the other rate was set by the administrator
    assert drift(driver, device, snapshot.take(vf), "vfio-pci", WANTED) == []
    driver.settings = replace(driver.settings, min_tx_rate=50, link_state=2)
    assert drift(driver, device, snapshot.take(vf), "vfio-pci", WANTED) == [
        "min_tx_rate is 50, expected 100",
        "link_state is 2, expected 1",
    ]
    put_back(driver, device, vf, monkeypatch)
    assert driver.settings == BEFORE


def test_a_vf_that_an_application_drives_by_iommufd_is_not_taken_from_it(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, device = PfDriver(), vf_of(sysfs)
    sysfs.vfio_device(device.address, 3)
    opened = {"/dev/vfio/devices/vfio3": "process 10 (dpdk-testpmd)"}
    monkeypatch.setattr(vfio, "users", lambda _proc: opened)
    with pytest.raises(Error, match=r"process 10 \(dpdk-testpmd\) has it open") as refused:
        vfs.rebind(driver, find(driver, device), "", timeout=0)
    assert refused.value.kind == Kind.TRY_AGAIN
    assert device.driver == "vfio-pci"


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ("link_state", 'key "link_state": it'),
        ("min_tx_rate", 'key "min_tx_rate": it'),
        ("vlan_proto", 'key "vlan": it and "vlanQoS", "vlanProto"'),
        ("trust", 'key "trust": it'),
    ],
)
def test_what_the_driver_refuses_is_named_and_what_it_took_is_put_back(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch, refused: str, named: str
) -> None:
    driver, device = PfDriver(refuses=[refused]), vf_of(sysfs)
    vf = find(driver, device)
    text = f"{named} cannot be set: the driver of the PF refuses it: Operation not supported"
    with pytest.raises(Error, match=text) as told:
        settings.apply(driver, vf, WANTED)
    assert told.value.kind == Kind.DEVICE
    put_back(driver, device, vf, monkeypatch)
    assert driver.settings == BEFORE


def test_a_driver_that_keeps_a_mac_does_not_keep_the_pod(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver, device = PfDriver(keeps_mac=True), vf_of(sysfs)
    vf = find(driver, device)
    settings.apply(driver, vf, WANTED)
    with caplog.at_level(logging.WARNING):
        put_back(driver, device, vf, monkeypatch)
    assert driver.settings == replace(BEFORE, mac=WANTED.mac)
    assert f"the driver of the PF keeps the MAC {WANTED.mac} that was set" in caplog.text


def test_what_cannot_be_put_back_is_told(sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, device = PfDriver(), vf_of(sysfs)
    vf = find(driver, device)
    settings.apply(driver, vf, WANTED)
    driver.refuses = ["link_state"]
    with pytest.raises(Error, match=r"not restored: link_state is 1, was 0 \(Operation not supported\)"):
        put_back(driver, device, vf, monkeypatch)
    assert driver.settings == replace(BEFORE, link_state=1)


class Resetting(PfDriver):
    """A PF driver that is resetting VF 0 and only reports VF 1."""

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        link = super().link(name, vfs=vfs)
        return link and replace(link, vfs={1: WANTED})


def test_a_vf_that_its_pf_does_not_tell_of_now_is_not_taken_for_another(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = vf_of(sysfs)
    before, driver = find(PfDriver(), device), Resetting()
    monkeypatch.setattr("wirespeed.devices.restore.Rtnl", lambda: driver)
    for verb in (
        lambda: find(driver, device),
        lambda: restore(device, snapshot.take(before), NOWHERE, timeout=0, rdma={}),
        lambda: drift(driver, device, snapshot.take(before), "vfio-pci", VfSettings()),
        lambda: settings.put_back(driver, replace(before, settings=WANTED), BEFORE),
    ):
        with pytest.raises(Error, match="PF eth4: its driver does not report the settings of VF 0 now") as untold:
            verb()
        assert untold.value.kind == Kind.TRY_AGAIN


def test_a_vf_of_a_pf_that_tells_of_none_goes_as_long_as_nothing_is_asked(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, device = PfDriver(), vf_of(sysfs)
    told = driver.link("eth4")
    assert told is not None
    monkeypatch.setattr(driver, "link", lambda *_, **__: replace(told, vfs={}))
    vf = find(driver, device)
    assert settings.apply(driver, vf, VfSettings()) == VfSettings()
    with pytest.raises(Error, match=r"the driver of PF .* \(eth4\) reports none of its VFs") as refused:
        settings.apply(driver, vf, VfSettings(trust=True))
    assert refused.value.kind == Kind.DEVICE
    put_back(driver, device, vf, monkeypatch)


def test_a_vendors_vfio_driver_is_a_user_space_one(sysfs: FakeSysfs) -> None:
    device = vf_of(sysfs, "mlx5_vfio_pci")
    sysfs.drop_interface("eth4v0")
    (device.path / "vfio-dev").mkdir()
    assert find(PfDriver(), device).link is None


@pytest.mark.parametrize(
    ("driver", "reset", "expected"),
    [
        ("vfio-pci", None, False),
        ("mlx5_vfio_pci", None, False),
        ("uio_pci_generic", None, True),
        ("igb_uio", None, True),
        ("vfio-pci", True, True),
        ("igb_uio", False, False),
        ("iavf", True, False),
    ],
)
def test_a_vf_that_an_application_drove_is_reset_where_its_driver_does_not(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch, driver: str, reset: bool | None, expected: bool
) -> None:
    device = vf_of(sysfs, driver)
    sysfs.write(device.address, "reset", "")
    if driver == "mlx5_vfio_pci":
        (device.path / "vfio-dev").mkdir()
    monkeypatch.setattr("wirespeed.devices.restore.Rtnl", PfDriver)
    before = snapshot.take(Vf(device=device, pf=PciDevice(PF, sysfs.root), index=0, driver=driver, settings=BEFORE))
    restore(device, before, NOWHERE, timeout=0, reset=reset, rdma={})
    assert (device.attribute("reset") == "1") is expected


def test_a_vf_of_a_pf_without_an_interface_goes_as_long_as_nothing_is_asked(sysfs: FakeSysfs) -> None:
    device = vf_of(sysfs)
    sysfs.drop_interface("eth4")
    sysfs.bind(PF, "vfio-pci")
    vf = find(PfDriver(), device)
    assert settings.apply(PfDriver(), vf, VfSettings()) == VfSettings()
    with pytest.raises(
        Error, match=rf'key "trust": it cannot be set: PF {PF} \(driver vfio-pci\) has no network interface'
    ) as refused:
        settings.apply(PfDriver(), vf, VfSettings(trust=True))
    assert refused.value.kind == Kind.DEVICE


def test_a_vf_of_a_switchdev_pf_is_set_by_the_pfs_own_interface(sysfs: FakeSysfs) -> None:
    (address,) = sysfs.pf(PF, "eth4", vfs=1, vf_driver="vfio-pci", phys_switch_id="ab12", phys_port_name="p0")
    sysfs.interface(PF, "aa_rep0", phys_switch_id="ab12", phys_port_name="pf0vf0")
    driver = PfDriver()
    vf = find(driver, PciDevice(address, sysfs.root))
    settings.apply(driver, vf, VfSettings(trust=True))
    assert driver.settings.trust
    told = device_info(vf)
    assert told is not None
    assert told["pci"] == {"pci-address": address, "pf-pci-address": PF, "representor-device": "aa_rep0"}


def test_a_vf_without_a_driver_is_taken_only_when_it_is_to_get_one(sysfs: FakeSysfs) -> None:
    device = vf_of(sysfs, "")
    with pytest.raises(Error, match="it has driver none and no network interface on the host"):
        find(PfDriver(), device)
    assert find(PfDriver(), device, rebinding=True).driver == ""


class RdmaDevices:
    """The kernel's RDMA devices by network namespace."""

    def __init__(self, *, exclusive: bool = True) -> None:
        self.is_exclusive, self.host = exclusive, {"mlx5_0": 1, "mlx5_4": 5}
        self.pod: dict[str, int] = {}

    def open(self, *, netns_fd: int | None = None) -> RdmaSocket:
        here, there = (self.host, self.pod) if netns_fd is None else (self.pod, self.host)
        return RdmaSocket(self.is_exclusive, here, there)


class RdmaSocket(Rdma):
    """Sees the devices of one namespace, and moves them to the other."""

    def __init__(self, exclusive: bool, here: dict[str, int], there: dict[str, int]) -> None:
        self.is_exclusive, self.here, self.there = exclusive, here, there

    def __exit__(self, *_: object) -> None:
        """It has no socket to close."""

    def exclusive(self) -> bool:
        return self.is_exclusive

    def devices(self) -> dict[str, int]:
        return dict(self.here)

    def move(self, index: int, netns_fd: int) -> None:
        name = next(name for name, number in self.here.items() if number == index)
        self.there[name] = self.here.pop(name)


def vf_with_rdma(sysfs: FakeSysfs) -> Vf:
    device = vf_of(sysfs)
    (device.path / "infiniband/mlx5_4").mkdir(parents=True)
    return find(PfDriver(), device)


def test_the_vfs_rdma_devices_go_into_the_pod_and_come_back(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = RdmaDevices()
    monkeypatch.setattr("wirespeed.devices.rdma.Rdma", devices.open)
    vf = vf_with_rdma(sysfs)
    moved = rdma.devices(vf)
    assert moved == {"mlx5_4": 5}
    with netns.opened("/proc/self/ns/net") as pod:
        assert rdma.missing(moved, pod) == [f"RDMA device mlx5_4 is not in {pod.path}"]
        rdma.move(vf, moved, pod)
        assert (devices.host, devices.pod) == ({"mlx5_0": 1}, {"mlx5_4": 5})
        assert rdma.missing(moved, pod) == []
        rdma.move_to_host(moved, (pod.path, pod.identity))
        assert (devices.host, devices.pod) == ({"mlx5_0": 1, "mlx5_4": 5}, {})
        rdma.move_to_host(moved, (pod.path, pod.identity))  # already on the host: a repeated DEL moves nothing


def test_rdma_devices_that_all_namespaces_share_are_not_moved(
    sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wirespeed.devices.rdma.Rdma", RdmaDevices(exclusive=False).open)
    with pytest.raises(Error, match="all network namespaces share the RDMA devices of this node") as refused:
        rdma.devices(vf_with_rdma(sysfs))
    assert refused.value.kind == Kind.DEVICE


def test_a_vf_without_an_rdma_device_has_none_to_move(sysfs: FakeSysfs) -> None:
    with pytest.raises(Error, match='key "rdmaIsolation": it has no RDMA device'):
        rdma.devices(find(PfDriver(), vf_of(sysfs)))
