"""The error of a netlink request that the kernel refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wirespeed.errors import Kind, Thing, as_error


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and as `strerror` its text, including the extended ack."""


@contextmanager
def as_device_error(*where: str | Thing) -> Iterator[None]:
    """Turn a NetlinkError raised inside into an Error(DEVICE) at these places."""
    try:
        yield
    except NetlinkError as error:
        raise as_error(error).of_kind(Kind.DEVICE).within(*where) from error
