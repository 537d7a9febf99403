"""Attach an XDP program as a pod with CAP_NET_ADMIN and CAP_BPF can."""

from __future__ import annotations

import ctypes
import os
import struct

from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.netlink.codec import attribute, nested, u32
from wirespeed.kernel.netlink.link import IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS, RTM_SETLINK, pack_link
from wirespeed.kernel.netlink.rtnl import Rtnl


def attach(netns: str, ifname: str, flags: int = 0) -> None:
    """Attach a program that passes everything. `flags` are XDP_FLAGS_*; with 0 the kernel chooses the mode."""
    program = _load()
    with namespaces.opened(netns) as ns, Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
        assert link is not None
        xdp = attribute(IFLA_XDP_FD, struct.pack("i", program)) + u32(IFLA_XDP_FLAGS, flags)
        inside.do(RTM_SETLINK, pack_link(link.index) + nested(IFLA_XDP, xdp))
    os.close(program)


def hold(netns: str, ifname: str, flags: int) -> int:
    """Attach a program by a BPF link. It stays attached until the returned file descriptor is closed."""
    program = _load()
    with namespaces.opened(netns) as ns, Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
        assert link is not None
        attributes = struct.pack("IIII", program, link.index, 37, flags)  # BPF_XDP
        held = namespaces.inside(ns.fd, lambda: _bpf(28, attributes))  # BPF_LINK_CREATE
    os.close(program)
    return held


def _load() -> int:
    code = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # return XDP_PASS
    insns, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("IIQQ", 6, 2, ctypes.addressof(insns), ctypes.addressof(licence))  # BPF_PROG_TYPE_XDP
    return _bpf(5, attributes)  # BPF_PROG_LOAD


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    made: int = ctypes.CDLL(None, use_errno=True).syscall(321, command, buffer, 128)
    assert made >= 0, os.strerror(ctypes.get_errno())
    return made
