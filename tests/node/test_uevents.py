"""The kernel's uevents, in a network namespace of the test's own."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.node.conftest import Netns
from wirespeed.kernel import netns as namespaces
from wirespeed.kernel.uevents import Changes, DeviceEvents

PCI = b"add@/devices/pci0000:00/0000:00:09.0\0ACTION=add\0DEVPATH=/devices/pci0000:00/0000:00:09.0\0SUBSYSTEM=pci\0"


@pytest.fixture
def space(netns: Callable[[], Netns]) -> Netns:
    return netns()


@pytest.fixture
def events(space: Netns) -> Iterator[DeviceEvents]:
    with namespaces.opened(space.path) as opened:
        made = namespaces.inside(opened.fd, DeviceEvents)
    with contextlib.closing(made):
        yield made


def sender(space: Netns) -> socket.socket:
    """A socket on which processes send uevents, as udevd does."""
    with namespaces.opened(space.path) as opened:
        return namespaces.inside(
            opened.fd, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 15)
        )


def test_nothing_has_changed_when_nothing_was_told(events: DeviceEvents) -> None:
    assert events.drain() == Changes()


def test_virtual_interfaces_are_told_and_do_not_count(space: Netns, events: DeviceEvents) -> None:
    space.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    assert events._socket.recv(1 << 16, socket.MSG_PEEK).startswith(b"add@/devices/virtual/net/v")
    assert events.drain() == Changes()
    with pytest.raises(BlockingIOError):
        events._socket.recv(1 << 16)


def test_notice_that_a_process_sends_does_not_count(space: Netns, events: DeviceEvents) -> None:
    with sender(space) as udevd:
        udevd.sendto(PCI, (0, 1))
    assert events._socket.recv(1 << 16, socket.MSG_PEEK) == PCI
    assert events.drain() == Changes()


def test_more_notices_than_fit_are_told_as_lost(space: Netns, events: DeviceEvents) -> None:
    with sender(space) as udevd:
        with contextlib.suppress(OSError):  # ENOBUFS, once a receiver's buffer is full
            for _ in range(100_000):
                udevd.sendto(PCI, (0, 1))
        assert events.drain() == Changes(lost=True)
        assert events.drain() == Changes()


def test_closed_is_closed(space: Netns) -> None:
    with namespaces.opened(space.path) as opened:
        events = namespaces.inside(opened.fd, DeviceEvents)
    number = events.fileno()
    assert os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    events.close()
    assert events.fileno() == -1
