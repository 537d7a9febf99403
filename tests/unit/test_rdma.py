"""RDMA netlink: requests to the kernel and parsing of its answers, with the numbers from rdma_netlink.h."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rdma import Rdma

GET, SET, SYS_GET = 0x1401, 0x1402, 0x1406


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind: int, payload: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(payload), kind, 2, 1, 0) + payload


def device(index: int, name: str) -> bytes:
    """One device of a dump, with additional attributes that are ignored."""
    port, firmware = attribute(3, struct.pack("I", 1)), attribute(5, b"20.31.1014\0")
    return message(
        GET, attribute(1, struct.pack("I", index)) + attribute(2, name.encode() + b"\0") + port + firmware
    )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's end of the socket."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("wirespeed.kernel.netlink.socket.socket.socket", lambda *_: ours)
    with kernels:
        yield kernels


def test_devices_are_read_from_several_messages(kernel: socket.socket) -> None:
    kernel.send(device(0, "mlx5_0") + device(7, "rocep1s0f0v1"))
    kernel.send(device(9, "ibp3s0") + message(3, struct.pack("i", 0)))
    with Rdma() as asking:
        assert asking.devices() == {"mlx5_0": 0, "rocep1s0f0v1": 7, "ibp3s0": 9}
    assert kernel.recv(4096) == struct.pack("IHHII", 16, GET, 0x301, 1, 0)


@pytest.mark.parametrize(("mode", "exclusive"), [(0, True), (1, False)])
def test_the_mode_is_told(kernel: socket.socket, mode: int, exclusive: bool) -> None:
    kernel.send(message(SYS_GET, attribute(66, bytes([mode]))))
    with Rdma() as asking:
        assert asking.exclusive() is exclusive
    assert kernel.recv(4096) == struct.pack("IHHII", 16, SYS_GET, 1, 1, 0)


def test_a_device_is_moved_by_its_number(kernel: socket.socket) -> None:
    kernel.send(message(2, struct.pack("i", 0)))
    with Rdma() as asking:
        asking.move(7, 42)
    asked = attribute(1, struct.pack("I", 7)) + attribute(68, struct.pack("I", 42))
    assert kernel.recv(4096) == struct.pack("IHHII", 32, SET, 5, 1, 0) + asked


def test_a_refusal_carries_its_number(kernel: socket.socket) -> None:
    kernel.send(message(2, struct.pack("i", -errno.EOPNOTSUPP)))
    with Rdma() as asking, pytest.raises(NetlinkError, match="Operation not supported") as refused:
        asking.move(7, 42)
    assert refused.value.errno == errno.EOPNOTSUPP
