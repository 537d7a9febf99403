"""The requests of generic netlink families, compared with those that pyroute2 sends."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2.netlink import genlmsg
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd

from tests.fakesysfs import FakeSysfs
from wirespeed.cni.errors import CniError, Code
from wirespeed.host.netlink.codec import attribute, messages, pack_message, text
from wirespeed.host.netlink.devlink import Devlink
from wirespeed.host.netlink.vdpa import Vdpa
from wirespeed.host.pci import PciDevice
from wirespeed.provision import eswitch, vdpa

PF = "0000:18:00.0"
FAMILY = 21
REQUEST, REQUEST_AND_ACK = 1, 5
HANDLE: list[tuple[str, object]] = [("DEVLINK_ATTR_BUS_NAME", "pci"), ("DEVLINK_ATTR_DEV_NAME", PF)]


class VdpaMessage(genlmsg):  # type: ignore[misc]
    """pyroute2's encoding of vdpa messages, with the numbers of linux/vdpa.h."""

    prefix = "VDPA_ATTR_"
    nla_map = (
        (1, "VDPA_ATTR_MGMTDEV_BUS_NAME", "asciiz"),
        (2, "VDPA_ATTR_MGMTDEV_DEV_NAME", "asciiz"),
        (4, "VDPA_ATTR_DEV_NAME", "asciiz"),
        (12, "VDPA_ATTR_DEV_NET_CFG_MAX_VQP", "uint16"),
    )


class Kernel:
    """The kernel's end of the next socket that is opened. It has one family, with the number FAMILY."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        group = attribute(1, text(1, "config") + attribute(2, struct.pack("I", 7)))
        self.answer(1, attribute(1, struct.pack("H", FAMILY)) + attribute(7, group), kind=16)

    def answer(self, sequence: int, attributes: bytes, *, kind: int = FAMILY) -> None:
        self.socket.send(pack_message(kind, 0, sequence, b"\1\1\0\0" + attributes))

    def acknowledge(self, sequence: int, number: int = 0) -> None:
        self.socket.send(pack_message(2, 0, sequence, struct.pack("i", -number)))

    def requests(self) -> list[tuple[int, int, bytes]]:
        """Return the type, flags and payload of each request after the one for the family's number."""
        datagrams = iter(lambda: self.socket.recv(4096), b"")  # to the end, as the other end is closed
        found = [request for datagram in datagrams for request in messages(datagram)]
        return [(request.kind, request.flags, request.payload) for request in found[1:]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("wirespeed.host.netlink.socket.socket.socket", lambda *_: ours)
    with kernels:
        yield Kernel(kernels)


def encoded(message: Any, command: int, attributes: list[tuple[str, object]]) -> bytes:
    """Return the payload of a message as encoded by pyroute2."""
    message["cmd"], message["version"], message["attrs"] = command, 1, attributes
    message.encode()
    return bytes(message.data)[16:]


@pytest.fixture
def pf(tmp_path: Any) -> PciDevice:
    sysfs = FakeSysfs(tmp_path)
    sysfs.pf(PF, "ens1f0")
    return PciDevice(PF, sysfs.root)


def test_the_number_of_a_family_and_of_its_group_are_looked_up(kernel: Kernel) -> None:
    with Devlink() as devlink:
        assert (devlink.family, devlink.group) == (FAMILY, 7)
    [request] = messages(kernel.socket.recv(4096))
    assert (request.kind, request.payload) == (16, b"\3\1\0\0" + text(2, "devlink"))


@pytest.mark.parametrize(("number", "mode"), [(0, "legacy"), (1, "switchdev")])
def test_eswitch_mode_is_read(kernel: Kernel, pf: PciDevice, number: int, mode: str) -> None:
    kernel.answer(2, attribute(25, struct.pack("H", number)))
    assert eswitch.mode(pf) == mode
    command = DEVLINK_NAMES["DEVLINK_CMD_ESWITCH_GET"]
    assert kernel.requests() == [(FAMILY, REQUEST, encoded(devlinkcmd(), command, HANDLE))]


def test_pf_without_an_eswitch_is_in_legacy_mode(kernel: Kernel, pf: PciDevice) -> None:
    kernel.acknowledge(2, errno.EOPNOTSUPP)
    assert eswitch.mode(pf) == "legacy"


def test_eswitch_mode_is_set(kernel: Kernel, pf: PciDevice) -> None:
    kernel.acknowledge(2)
    eswitch.set_mode(pf, "switchdev")
    command = DEVLINK_NAMES["DEVLINK_CMD_ESWITCH_SET"]
    attributes = [*HANDLE, ("DEVLINK_ATTR_ESWITCH_MODE", 1)]
    assert kernel.requests() == [(FAMILY, REQUEST_AND_ACK, encoded(devlinkcmd(), command, attributes))]


def test_refused_eswitch_mode_names_the_pf(kernel: Kernel, pf: PciDevice) -> None:
    kernel.acknowledge(2, errno.EOPNOTSUPP)
    with pytest.raises(CniError) as refused:
        eswitch.set_mode(pf, "switchdev")
    assert refused.value.code == Code.DEVICE
    assert refused.value.msg == f"PF {PF}: eswitch mode switchdev: Operation not supported"


def test_vdpa_device_is_created_with_queue_pairs(kernel: Kernel) -> None:
    kernel.acknowledge(2)
    with Vdpa() as netlink:
        netlink.create("vdpa:a", "pci", PF, queue_pairs=32)
    attributes: list[tuple[str, object]] = [
        ("VDPA_ATTR_MGMTDEV_BUS_NAME", "pci"),
        ("VDPA_ATTR_MGMTDEV_DEV_NAME", PF),
        ("VDPA_ATTR_DEV_NAME", "vdpa:a"),
        ("VDPA_ATTR_DEV_NET_CFG_MAX_VQP", 32),
    ]
    assert kernel.requests() == [(FAMILY, REQUEST_AND_ACK, encoded(VdpaMessage(), 3, attributes))]


def test_vdpa_device_is_created_without_queue_pairs_if_they_are_refused(kernel: Kernel) -> None:
    kernel.acknowledge(2, errno.EINVAL)
    kernel.acknowledge(3, errno.EEXIST)
    with pytest.raises(CniError, match="vdpa device vdpa:a of vdpasim_net: File exists"):
        vdpa.make("vdpasim_net", "vdpa:a", "vhost")
    attributes: list[tuple[str, object]] = [
        ("VDPA_ATTR_MGMTDEV_DEV_NAME", "vdpasim_net"),
        ("VDPA_ATTR_DEV_NAME", "vdpa:a"),
    ]
    assert kernel.requests()[1:] == [(FAMILY, REQUEST_AND_ACK, encoded(VdpaMessage(), 3, attributes))]


def test_vdpa_device_is_deleted_by_its_name(kernel: Kernel) -> None:
    kernel.acknowledge(2)
    with Vdpa() as netlink:
        netlink.delete("vdpa:a")
    deletion = encoded(VdpaMessage(), 4, [("VDPA_ATTR_DEV_NAME", "vdpa:a")])
    assert kernel.requests() == [(FAMILY, REQUEST_AND_ACK, deletion)]
