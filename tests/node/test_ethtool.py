"""The number of queues of an interface: read from the kernel and set."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from wirespeed.kernel import ethtool, netns
from wirespeed.kernel.ethtool import Queues


@pytest.fixture
def inside() -> Iterator[int]:
    """A namespace with a veth pair with 4 queues; one end is named "wide"."""
    name = "ethtool-queues"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        command = "link add wide numrxqueues 4 numtxqueues 4 type veth peer name other numrxqueues 4 numtxqueues 4"
        subprocess.run(["ip", "-n", name, *command.split()], check=True)
        with netns.opened(f"/run/netns/{name}") as ns:
            yield ns.fd
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_queues_are_set_and_told(inside: int) -> None:
    for count in (1, 3, 4):
        netns.inside(inside, lambda: ethtool.set_queues("wide", count))  # noqa: B023 — called at once
        assert netns.inside(inside, lambda: ethtool.queues("wide")) == Queues(count, 4)


def test_more_queues_than_there_are_is_refused(inside: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        netns.inside(inside, lambda: ethtool.set_queues("wide", 5))


@pytest.mark.parametrize("name", ["lo", "absent"])
def test_an_interface_that_tells_no_queues_has_none(inside: int, name: str) -> None:
    assert netns.inside(inside, lambda: ethtool.queues(name)) is None
    assert netns.inside(inside, lambda: ethtool.read_rss(name)) is None
    assert netns.inside(inside, lambda: ethtool.rx_queue_count(name)) == 0
