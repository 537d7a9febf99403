"""devlink: health reporters, by which drivers report faults (linux/devlink.h)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wirespeed.kernel.netlink.codec import NLM_F_DUMP, attributes, number, string
from wirespeed.kernel.netlink.generic import GENLMSGHDR, GenericSocket

_CMD_DEL, _CMD_PORT_DEL, _CMD_HEALTH_REPORTER_GET, _CMD_HEALTH_REPORTER_RECOVER = 4, 8, 52, 54
_ATTR_DEV_NAME, _ATTR_PORT_INDEX = 2, 3
_ATTR_HEALTH_REPORTER, _ATTR_HEALTH_REPORTER_NAME, _ATTR_HEALTH_REPORTER_STATE = 114, 115, 116
_ATTR_HEALTH_REPORTER_AUTO_RECOVER = 121
_STATE_ERROR = 1  # DEVLINK_HEALTH_REPORTER_STATE_ERROR


class Reporter(NamedTuple):
    """A health reporter of a device, given by its name on its bus, or of one of its ports (-1: of no port)."""

    device: str
    port: int
    name: str


def dump_reporters() -> Iterator[bytes]:
    """Yield a message for each health reporter. Waits while a driver has its device locked. Raises OSError."""
    with GenericSocket("devlink") as devlink:
        yield from devlink.command(_CMD_HEALTH_REPORTER_GET, flags=NLM_F_DUMP)


def update_reporters(in_error: set[Reporter], message: bytes) -> None:
    """Update the set from a devlink message (starting at its genlmsghdr); other messages change nothing."""
    command, *_ = GENLMSGHDR.unpack_from(message)
    seen = attributes(message, GENLMSGHDR.size)
    if _ATTR_DEV_NAME not in seen:
        return
    device = string(seen[_ATTR_DEV_NAME])
    port = number(seen[_ATTR_PORT_INDEX]) if _ATTR_PORT_INDEX in seen else -1
    if command in {_CMD_HEALTH_REPORTER_GET, _CMD_HEALTH_REPORTER_RECOVER}:
        about = attributes(seen[_ATTR_HEALTH_REPORTER])
        reporter = Reporter(device, port, string(about[_ATTR_HEALTH_REPORTER_NAME]))
        is_error = number(about[_ATTR_HEALTH_REPORTER_STATE]) == _STATE_ERROR
        # The kernel sends AUTO_RECOVER only for a reporter that can recover; others never leave the error state.
        if is_error and _ATTR_HEALTH_REPORTER_AUTO_RECOVER in about:
            in_error.add(reporter)
        else:
            in_error.discard(reporter)
    elif command in {_CMD_DEL, _CMD_PORT_DEL}:  # the kernel sends no messages for the removed reporters
        gone = {each for each in in_error if each.device == device and (command == _CMD_DEL or each.port == port)}
        in_error -= gone
