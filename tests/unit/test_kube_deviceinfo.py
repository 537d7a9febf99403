"""Device-info files, as read by pods and other plugins."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from wirespeed.kube import deviceinfo


def test_a_pci_device_has_the_keys_of_the_specification() -> None:
    info = deviceinfo.pci_info("0000:03:02.0", pf_pci_address="0000:03:00.0", rdma_device="mlx5_2", vhost_net="")
    assert info == {
        "type": "pci",
        "version": "1.1.0",
        "pci": {"pci-address": "0000:03:02.0", "pf-pci-address": "0000:03:00.0", "rdma-device": "mlx5_2"},
    }


def test_vhost_user_and_memif_interfaces_have_the_applications_role_and_the_socket() -> None:
    assert deviceinfo.vhost_user_info("server", "/sockets/a-net1") == {
        "type": "vhost-user",
        "version": "1.1.0",
        "vhost-user": {"mode": "server", "path": "/sockets/a-net1"},
    }
    assert deviceinfo.memif_info("slave", "/sockets/m.sock", "ip") == {
        "type": "memif",
        "version": "1.1.0",
        "memif": {"role": "slave", "path": "/sockets/m.sock", "mode": "ip"},
    }


def test_files_are_where_the_specification_has_them() -> None:
    base = Path("/var/run/k8s.cni.cncf.io/devinfo")
    assert str(deviceinfo.dp_file(base, "intel.com/vf", "0000:03:02.0")) == (
        "/var/run/k8s.cni.cncf.io/devinfo/dp/intel.com-vf-0000:03:02.0-device.json"
    )
    assert str(deviceinfo.cni_file(base, "default/net", "c1", "net1")) == (
        "/var/run/k8s.cni.cncf.io/devinfo/cni/default-net-c1_net1"
    )


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    for path in (
        deviceinfo.dp_file(tmp_path, "../../a", "../b"),
        deviceinfo.cni_file(tmp_path, "../a/..", "c1", "net1"),
    ):
        assert path.resolve().parent in (tmp_path / "dp", tmp_path / "cni")


def test_a_long_networks_name_makes_a_file_of_its_own(tmp_path: Path) -> None:
    paths = [deviceinfo.cni_file(tmp_path, f"ns/{'n' * 253}", "c" * 64, ifname) for ifname in ("net1", "net2")]
    for path in paths:
        deviceinfo.write(path, deviceinfo.pci_info("0000:03:02.0"))
    assert sorted((tmp_path / "cni").iterdir()) == paths
    for path in paths:
        deviceinfo.remove(path)
    assert list((tmp_path / "cni").iterdir()) == []


def test_what_is_written_is_read_and_cannot_be_written_by_others(tmp_path: Path) -> None:
    path = deviceinfo.dp_file(tmp_path, "intel.com/vf", "0000:03:02.0")
    info = deviceinfo.pci_info("0000:03:02.0")
    deviceinfo.write(path, info)
    assert deviceinfo.read(path) == info
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert " " not in path.read_text()
    deviceinfo.write(path, {"type": "pci"})
    assert deviceinfo.read(path) == {"type": "pci"}
    assert os.listdir(path.parent) == [path.name]


def test_who_reads_while_it_is_written_sees_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "dp/file"
    deviceinfo.write(path, {"old": "x" * 10000})
    with path.open() as opened:
        deviceinfo.write(path, {"new": "y"})
        assert json.load(opened) == {"old": "x" * 10000}


def test_what_an_interrupted_write_left_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.new").write_text("half")
    (tmp_path / ".file.new").chmod(0o444)
    deviceinfo.write(path, {"a": "b"})
    assert deviceinfo.read(path) == {"a": "b"}
    assert os.listdir(tmp_path) == ["file"]


def test_what_an_interrupted_write_left_goes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    deviceinfo.write(path, {"a": "b"})
    (tmp_path / ".file.new").write_text("half")
    deviceinfo.remove(path)
    assert os.listdir(tmp_path) == []
    deviceinfo.remove(path)
    deviceinfo.remove(tmp_path / "absent/file")


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000], ids=lambda content: repr(content)[:8]
)
def test_what_is_no_device_info_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert deviceinfo.read(path) is None
