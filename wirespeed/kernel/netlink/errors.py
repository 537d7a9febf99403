"""The error of a netlink request that the kernel refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wirespeed.cni.errors import CniError, Code


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and as `strerror` its text, including the extended ack."""


@contextmanager
def as_device_error(where: str) -> Iterator[None]:
    """Turn a NetlinkError raised inside into a CniError(DEVICE) that begins with `where`."""
    try:
        yield
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"{where}: {error.strerror}") from error
