"""Waiting for changes of links, by the kernel's notifications."""

from __future__ import annotations

import errno
import math
import select
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import RTMGRP_LINK, Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.socket import NETLINK_ROUTE, NetlinkSocket

# Seconds that a VF's driver may need to learn of a MAC that was set on the PF, and the errors that it returns
# until then: i40e and ice reset the VF for a new MAC, and iavf then answers "try again".
MAC_TIMEOUT = 2.0
MAC_NOT_YET = frozenset({errno.EAGAIN, errno.EBUSY, errno.EACCES})

T = TypeVar("T")


def wait_for_carrier(index: int, *, timeout: float) -> Link | None:
    """Wait up to `timeout` s for the carrier of an interface in this thread's namespace; None if it is gone."""

    def link_if_settled(rtnl: Rtnl) -> tuple[Link | None] | None:
        link = rtnl.link(index)
        return (link,) if link is None or link.running else None

    if (found := wait_for(link_if_settled, timeout)) is not None:
        return found[0]
    with Rtnl() as rtnl:
        return rtnl.link(index)


def set_mac(index: int, mac: str, *, retry_on: Collection[int] = MAC_NOT_YET, timeout: float = MAC_TIMEOUT) -> None:
    """Set the MAC of an interface in this thread's namespace; retry while the kernel returns one of `retry_on`.

    Retries at each change of a link and ten times a second (not every driver notifies), for up to `timeout`
    seconds. Also succeeds if the driver has meanwhile set the MAC itself. Raises the last NetlinkError.
    """
    refusals: list[NetlinkError] = []

    def is_set(rtnl: Rtnl) -> bool | None:
        link = rtnl.link(index)
        if link is not None and link.mac == mac:
            return True
        try:
            rtnl.set_link(index, mac=mac)
        except NetlinkError as error:
            if error.errno not in retry_on:
                raise
            refusals.append(error)
            return None
        return True

    if not wait_for(is_set, timeout, every=0.1):
        raise refusals[-1]


def wait_for(
    look: Callable[[Rtnl], T | None], timeout: float, *, every: float = math.inf, groups: int = RTMGRP_LINK
) -> T | None:
    """Call `look` until it returns something, and return that; None after `timeout` seconds.

    It is called in this thread's namespace: at once, at each change of a link (or of what the groups RTMGRP_* of
    notifications are about), and every `every` seconds.
    """
    deadline = time.monotonic() + timeout
    with NetlinkSocket(NETLINK_ROUTE) as events, Rtnl() as rtnl:
        events.subscribe(groups=groups)  # before the first look, so that no change after it is missed
        poller = select.poll()  # select(2) fails for descriptors above 1023
        poller.register(events, select.POLLIN)
        while True:
            if (found := look(rtnl)) is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if poller.poll(math.ceil(1000 * min(left, every))):
                # Also if notifications were lost, the look that follows sees the effect of their changes.
                next(events.notifications(), None)
