"""The configuration space of a PCI Express device: its link and its SR-IOV capability (PCI Express Base
Specification)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from wirespeed.errors import Error, Kind

# linux/pci_regs.h
_CAPABILITIES = 0x34  # PCI_CAPABILITY_LIST
_EXPRESS, _SRIOV = 0x10, 0x0010  # PCI_CAP_ID_EXP, PCI_EXT_CAP_ID_SRIOV
_EXTENDED = 0x100
_TOTAL_VFS = 0x0E  # PCI_SRIOV_TOTAL_VF
_CAPABLE, _CONTROL = 0x04, 0x08  # PCI_EXP_DEVCAP, PCI_EXP_DEVCTL
_UNPRIVILEGED = 64  # bytes that sysfs shows of it to others than root


class Express(NamedTuple):
    """Sizes in bytes: the largest payload the device can take, the one that is set, the largest read request."""

    payload_capable: int
    payload: int
    read_request: int


def express(config: bytes) -> Express | None:
    """Return the sizes that a device uses on its link; None if it is not PCI Express. Raises Error(POLICY)."""
    at = next((at for at, kind in _capabilities(_readable(config)) if kind == _EXPRESS), 0)
    if not at:
        return None
    capable, control = struct.unpack_from("<I", config, at + _CAPABLE)[0], _u16(config, at + _CONTROL)
    return Express(128 << (capable & 7), 128 << (control >> 5 & 7), 128 << (control >> 12 & 7))


def total_vfs(config: bytes) -> int | None:
    """Return how many VFs the firmware of the card offers; None without SR-IOV capability. Raises Error(POLICY)."""
    at = next((at for at, kind in _extended(_readable(config)) if kind == _SRIOV), 0)
    return _u16(config, at + _TOTAL_VFS) if at else None


def _readable(config: bytes) -> bytes:
    if len(config) <= _UNPRIVILEGED:
        raise Error(Kind.POLICY, "only root can read its configuration space")
    return config


def _capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """Yield offset and id of each capability."""
    seen: set[int] = set()
    at = config[_CAPABILITIES] & 0xFC
    while _UNPRIVILEGED <= at < _EXTENDED and at not in seen:
        seen.add(at)
        yield at, config[at]
        at = config[at + 1] & 0xFC


def _extended(config: bytes) -> Iterator[tuple[int, int]]:
    """Yield offset and id of each extended capability."""
    seen: set[int] = set()
    at = _EXTENDED
    while _EXTENDED <= at <= len(config) - 4 and at not in seen:
        seen.add(at)
        head = struct.unpack_from("<I", config, at)[0]
        if not head or head == 0xFFFFFFFF:
            return
        yield at, head & 0xFFFF
        at = head >> 20 & 0xFFC


def _u16(config: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", config, at)[0])
