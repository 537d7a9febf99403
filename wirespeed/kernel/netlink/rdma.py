"""RDMA devices and the network namespaces that they belong to, by RDMA netlink (rdma/rdma_netlink.h)."""

from __future__ import annotations

from wirespeed.kernel.netlink.codec import NLM_F_DUMP, attributes, number, string, u32
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.socket import NETLINK_RDMA, NetlinkSocket

_NLDEV = 5 << 10  # RDMA_NL_GET_TYPE of RDMA_NL_NLDEV
_GET, _SET, _SYS_GET = _NLDEV + 1, _NLDEV + 2, _NLDEV + 6
_INDEX, _NAME, _NETNS_MODE, _NET_NS_FD = 1, 2, 66, 68


class Rdma(NetlinkSocket):
    """An RDMA netlink socket (see NetlinkSocket), which sees the RDMA devices of its namespace."""

    def __init__(self, *, netns_fd: int | None = None) -> None:
        try:
            super().__init__(NETLINK_RDMA, netns_fd=netns_fd)
        except OSError as error:  # a kernel without RDMA
            raise NetlinkError(error.errno, error.strerror) from error

    def exclusive(self) -> bool:
        """Whether each RDMA device belongs to one network namespace; otherwise all namespaces share all devices."""
        answers = self.request(_SYS_GET, 0, b"")
        return any(attributes(answer.payload).get(_NETNS_MODE) == b"\0" for answer in answers)

    def devices(self) -> dict[str, int]:
        """Return the RDMA devices of the namespace: index by name. A device keeps its index when it moves."""
        found = [attributes(answer.payload) for answer in self.request(_GET, NLM_F_DUMP, b"")]
        return {string(each[_NAME]): number(each[_INDEX]) for each in found}

    def move(self, index: int, netns_fd: int) -> None:
        """Move a device of this namespace to the one open at `netns_fd`. Disconnects applications that use it."""
        self.do(_SET, u32(_INDEX, index) + u32(_NET_NS_FD, netns_fd))
