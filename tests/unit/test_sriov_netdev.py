"""The VF's interface in its pod, with a fake kernel: what ADD sets, what CHECK notices, what DEL restores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakesysfs import FakeSysfs
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel import announce
from wirespeed.kernel.netlink.address import Interface
from wirespeed.kernel.netlink.link import IFF_UP, Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.vf import VfSettings
from wirespeed.node import Node, NodeConfig
from wirespeed.plugins.sriov import sriov

PF = "0000:18:00.0"
PF_LINK = Link(index=7, name="eth4", mac="02:00:00:00:00:01", mtu=9000, flags=IFF_UP, vfs={0: VfSettings()})


class Kernel(Rtnl):
    """A kernel with a PF, "eth4", and the interface of a device. The "pods" are in the host's namespace."""

    def __init__(self, device: str, folder: Path) -> None:
        """`folder` is the device's in sysfs."""
        self.folder = folder
        mac = "02:00:00:00:00:02"
        self.netdev = Link(index=8, name="eth4v0", mac=mac, mtu=1500, flags=0, txqlen=1000, parent=device)

    def close(self) -> None:
        """It has no socket to close."""

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        return next((link for link in (PF_LINK, self.netdev) if name in {link.name, link.index}), None)

    def addresses(self, index: int) -> list[Interface]:
        return []

    def set_link(self, index: int, *, netns_fd: int | None = None, up: bool | None = None, **changes: Any) -> None:
        assert index == self.netdev.index
        found = {key: value for key, value in changes.items() if value is not None}
        if "name" in found:
            (self.folder / "net" / self.netdev.name).rename(self.folder / "net" / found["name"])
        self.netdev = replace(self.netdev, **found, flags=self.netdev.flags if up is None else IFF_UP * up)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "sys")


@pytest.fixture
def node(tmp_path: Path, sysfs: FakeSysfs) -> Iterator[Node]:
    state, leases = str(tmp_path / "state.db"), str(tmp_path / "leases")
    node = Node(NodeConfig(state=state, sysfs=str(sysfs.root), leases=leases))
    yield node
    node.close()


@pytest.fixture(params=["VF", "scalable function"])
def kernel(request: pytest.FixtureRequest, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    (vf,) = sysfs.pf(PF, "eth4", vfs=1, driver="mlx5_core", vf_driver="mlx5_core")
    if request.param == "VF":
        made = Kernel(vf, sysfs.path(vf))
    else:
        name = sysfs.function(PF, "mlx5_core.sf.4", 88, interface="eth4v0")
        made = Kernel(name, sysfs.path(PF) / name)
    monkeypatch.setattr("wirespeed.devices.restore.Rtnl", lambda **_: made)
    monkeypatch.setattr(sriov, "Rtnl", lambda **_: made)
    monkeypatch.setattr(announce, "in_background", lambda *_: None)
    return made


def asked(kernel: Kernel, **keys: Any) -> Request:
    config = {"cniVersion": "1.1.0", "name": "net", "type": "wirespeed-sriov", "deviceID": kernel.netdev.parent}
    return Request(command="ADD", container_id="c1", netns="/proc/self/ns/net", ifname="net1", config=config | keys)


def test_a_transmit_queue_is_as_long_as_asked_for_until_del(node: Node, kernel: Kernel) -> None:
    plugin, request, before = node.plugin("sriov"), asked(kernel, txQueueLen=500), kernel.netdev
    plugin.add(request)
    assert (kernel.netdev.name, kernel.netdev.txqlen) == ("net1", 500)
    plugin.check(request)
    kernel.netdev = replace(kernel.netdev, txqlen=77)
    with pytest.raises(Error, match="txQueueLen of net1 is 77, expected 500") as drifted:
        plugin.check(request)
    assert drifted.value.kind == Kind.DRIFT
    plugin.delete(request)
    assert kernel.netdev == before
    assert node.journal.claims() == []


def test_without_the_key_any_length_of_the_transmit_queue_is_right_and_is_put_back(
    node: Node, kernel: Kernel
) -> None:
    plugin, request, before = node.plugin("sriov"), asked(kernel), kernel.netdev
    plugin.add(request)
    assert kernel.netdev.txqlen == before.txqlen
    kernel.netdev = replace(kernel.netdev, txqlen=77)
    plugin.check(request)
    plugin.delete(request)
    assert kernel.netdev == before


def test_a_vf_in_user_space_has_no_transmit_queue_of_the_kernel(
    node: Node, sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (vf,) = sysfs.pf(PF, "eth4", vfs=1, driver="mlx5_core", vf_driver="vfio-pci")
    kernel = Kernel(vf, sysfs.path(vf))
    monkeypatch.setattr(sriov, "Rtnl", lambda **_: kernel)
    with pytest.raises(Error, match='key "txQueueLen": it has no netdev; remove the key') as refused:
        node.plugin("sriov").add(asked(kernel, txQueueLen=500))
    assert refused.value.kind == Kind.INVALID_CONFIG
    assert node.journal.claims() == []
