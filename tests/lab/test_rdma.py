"""RDMA netlink with a real RDMA device: the kernel's Soft-RoCE (rdma_rxe) on a PF."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import PFS, sh
from wirespeed.kernel import netns as host_netns
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rdma import Rdma

Namespaces = Callable[[], str]

PATIENCE = 20.0  # seconds


def set_sharing(mode: str) -> None:
    """Set RDMA's netns mode to "shared" or "exclusive", when the namespaces of earlier tests are gone.

    The kernel refuses while other namespaces exist. It removes deleted ones later on a work queue that cannot be
    waited for.
    """
    end = time.monotonic() + PATIENCE
    while (said := sh_refused("rdma", "system", "set", "netns", mode)) and time.monotonic() < end:
        assert "Device or resource busy" in said
        os.sched_yield()
    assert not said


def sh_refused(*command: str) -> str:
    """Return the command's error output, or "" if it succeeds."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stderr or f"{command} fails" if done.returncode else ""


@pytest.fixture
def roce() -> Iterator[str]:
    """The name of a Soft-RoCE device."""
    sh("modprobe", "rdma_rxe")
    sh("rdma", "link", "add", "roce0", "type", "rxe", "netdev", PFS[0])
    yield "roce0"
    sh("rdma", "link", "delete", "roce0")


@pytest.fixture
def exclusive() -> Iterator[None]:
    """Exclusive mode: each RDMA device belongs to one namespace."""
    set_sharing("exclusive")
    yield
    set_sharing("shared")


def test_rdma_devices_and_their_sharing_are_told(roce: str) -> None:
    number = int(sh("rdma", "dev", "show", roce).split(":")[0])
    with Rdma() as asking:
        assert asking.devices() == {roce: number}
        assert asking.exclusive() is False


def test_devices_of_another_namespace_are_not_seen_when_each_has_its_own(
    roce: str, exclusive: None, namespaces: Namespaces
) -> None:
    with host_netns.opened(namespaces()) as ns, Rdma(netns_fd=ns.fd) as inside, Rdma() as outside:
        assert outside.exclusive() is True
        assert (list(outside.devices()), inside.devices()) == ([roce], {})


def test_a_device_that_its_driver_lets_nobody_move_stays_and_the_kernel_says_so(
    roce: str, exclusive: None, namespaces: Namespaces
) -> None:
    netns = namespaces()
    by_hand = subprocess.run(
        ["rdma", "dev", "set", roce, "netns", netns.rpartition("/")[2]], check=False, capture_output=True, text=True
    )
    with host_netns.opened(netns) as ns, Rdma() as outside:
        with pytest.raises(NetlinkError) as refused:
            outside.move(outside.devices()[roce], ns.fd)
        assert refused.value.errno == errno.EOPNOTSUPP
        assert "Operation not supported" in by_hand.stderr
        with pytest.raises(NetlinkError) as unknown:
            outside.move(12345, ns.fd)
        assert unknown.value.errno == errno.EINVAL
        assert list(outside.devices()) == [roce]
