"""RDMA netlink on a real RDMA device, the kernel's software RoCE on a PF."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import PFS, sh
from wirespeed.host import netns as host_netns
from wirespeed.host.rdma import Rdma
from wirespeed.host.rtnl import NetlinkError

Namespaces = Callable[[], str]


@pytest.fixture
def roce() -> Iterator[str]:
    """An RDMA device; its name."""
    sh("modprobe", "rdma_rxe")
    sh("rdma", "link", "add", "roce0", "type", "rxe", "netdev", PFS[0])
    yield "roce0"
    sh("rdma", "link", "delete", "roce0")


@pytest.fixture
def exclusive() -> Iterator[None]:
    """Each RDMA device belongs to one namespace."""
    sh("rdma", "system", "set", "netns", "exclusive")
    yield
    sh("rdma", "system", "set", "netns", "shared")


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
