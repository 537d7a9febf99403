"""Route netlink: requests for links with their VFs, addresses and routes, in as few messages as possible."""

from __future__ import annotations

import errno
import ipaddress

from wirespeed.kernel.netlink.address import (
    RTM_GETADDR,
    RTM_NEWADDR,
    Address,
    pack_address,
    pack_interface,
    unpack_address,
)
from wirespeed.kernel.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    attribute,
    attributes,
    mac_bytes,
    nested,
    text,
    u32,
)
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import (
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    IFF_UP,
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_ALT_IFNAME,
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_PROP_LIST,
    IFLA_STATS64,
    IFLA_TXQLEN,
    RTEXT_FILTER_SKIP_STATS,
    RTEXT_FILTER_VF,
    RTM_DELLINKPROP,
    RTM_GETLINK,
    RTM_NEWLINKPROP,
    RTM_SETLINK,
    Link,
    pack_link,
    pack_name,
    pack_xdp_detachment,
    unpack_link,
    unpack_vrf_table,
)
from wirespeed.kernel.netlink.route import (
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_OIF,
    RTA_PRIORITY,
    RTAX_ADVMSS,
    RTAX_MTU,
    RTM_NEWROUTE,
    pack_route_header,
)
from wirespeed.kernel.netlink.socket import (
    NETLINK_CAP_ACK,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NetlinkSocket,
)
from wirespeed.kernel.netlink.vf import IFLA_VFINFO_LIST, VfSettings, pack_vf, unpack_stats

_OPTIONS = (
    NETLINK_EXT_ACK,  # errors come with a text
    NETLINK_CAP_ACK,  # errors do not repeat our request
    NETLINK_GET_STRICT_CHK,  # dumps can be filtered by interface
)


class Rtnl(NetlinkSocket):
    """A route netlink socket in the calling thread's network namespace, or in the one open at `netns_fd`.

    Not shared between threads. Every request raises NetlinkError if the kernel refuses.
    """

    def __init__(self, *, netns_fd: int | None = None) -> None:
        super().__init__(NETLINK_ROUTE, netns_fd=netns_fd, options=_OPTIONS)

    # Links

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        """Return the interface with that name, alternative name or index; with its VFs' settings if `vfs`."""
        index, packed = (name, b"") if isinstance(name, int) else (0, pack_name(name))
        mask = RTEXT_FILTER_SKIP_STATS | (RTEXT_FILTER_VF if vfs else 0)
        try:
            return unpack_link(self.get(RTM_GETLINK, pack_link(index) + packed + u32(IFLA_EXT_MASK, mask)))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
        return None

    def links(self) -> list[Link]:
        """Return all interfaces of the namespace."""
        request = pack_link() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        return [unpack_link(payload) for payload in self.dump(RTM_GETLINK, request)]

    def link_of_device(self, parent: str) -> Link | None:
        """Return the interface of the device with this bus address (IFLA_PARENT_DEV_NAME, kernel 5.14)."""
        return next((link for link in self.links() if link.parent == parent), None)

    def set_link(
        self,
        index: int,
        *,
        netns_fd: int | None = None,
        name: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        txqlen: int | None = None,
        alias: str | None = None,
        up: bool | None = None,
        promisc: bool | None = None,
        allmulti: bool | None = None,
        arp: bool | None = None,
        multicast: bool | None = None,
    ) -> None:
        """Change an interface in one message: move and rename it, set its MAC, MTU and flags, bring it up or down.

        Moving takes the interface down; `up` then sets its state in the new namespace. `mtu` is in bytes; an
        `alias` of "" removes it. Not atomic: if the kernel refuses a change, those that it made before stay. It
        makes the move first.
        """
        packed = b"" if netns_fd is None else u32(IFLA_NET_NS_FD, netns_fd)
        if name is not None:
            packed += text(IFLA_IFNAME, name)
        if mac is not None:
            packed += attribute(IFLA_ADDRESS, mac_bytes(mac))
        if mtu is not None:
            packed += u32(IFLA_MTU, mtu)
        if txqlen is not None:
            packed += u32(IFLA_TXQLEN, txqlen)
        if alias is not None:
            packed += attribute(IFLA_IFALIAS, alias.encode())
        noarp = None if arp is None else not arp
        flags = {
            IFF_UP: up,
            IFF_NOARP: noarp,
            IFF_PROMISC: promisc,
            IFF_ALLMULTI: allmulti,
            IFF_MULTICAST: multicast,
        }
        change = sum(flag for flag, on in flags.items() if on is not None)
        value = sum(flag for flag, on in flags.items() if on)
        self.do(RTM_SETLINK, pack_link(index, flags=value, change=change) + packed)

    def detach_xdp(self, index: int, mode: str) -> None:
        """Detach the XDP program that is attached in that mode (XDP_MODES)."""
        self.do(RTM_SETLINK, pack_link(index) + pack_xdp_detachment(mode))

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        """Set the given settings of VF number `vf` of a PF, in one message.

        Not atomic: if the driver refuses one, those before it stay applied (order of `vf.pack_settings`). A VLAN's
        id, priority and protocol are one setting for the kernel, and so are the two rates: if one of them is
        given, all are set, the others to 0 (the protocol to 802.1Q).
        """
        if packed := pack_vf(vf, settings):
            self.do(RTM_SETLINK, pack_link(pf_index) + packed)

    def vf_stats(self, pf_index: int) -> dict[int, dict[int, bytes]]:
        """Return the counters of the VFs of a PF that its driver reports, by VF number.

        The counters of a VF are IFLA_VF_STATS_* attributes, each a packed u64.
        """
        listed = self._link_attribute(pf_index, IFLA_VFINFO_LIST, u32(IFLA_EXT_MASK, RTEXT_FILTER_VF))
        return unpack_stats(listed)

    def link_stats(self, index: int) -> bytes:
        """Return the counters of an interface: a struct rtnl_link_stats64 (linux/if_link.h)."""
        return self._link_attribute(index, IFLA_STATS64)

    def _link_attribute(self, index: int, wanted: int, packed: bytes = b"") -> bytes:
        """Return one attribute of an interface, b"" if it has none; `packed` are attributes of the request."""
        return attributes(self.get(RTM_GETLINK, pack_link(index) + packed), IFINFOMSG.size).get(wanted, b"")

    def vrf_table(self, index: int) -> int:
        """Return the routing table of a VRF, 0 for any other interface."""
        return unpack_vrf_table(self.get(RTM_GETLINK, pack_link(index)))

    def add_altname(self, index: int, name: str) -> None:
        """Give the interface an alternative name."""
        self._change_altname(RTM_NEWLINKPROP, index, name, NLM_F_CREATE | NLM_F_EXCL)

    def remove_altname(self, index: int, name: str) -> None:
        """Remove an alternative name from the interface."""
        self._change_altname(RTM_DELLINKPROP, index, name)

    def _change_altname(self, kind: int, index: int, name: str, flags: int = 0) -> None:
        self.do(kind, pack_link(index) + nested(IFLA_PROP_LIST, text(IFLA_ALT_IFNAME, name)), flags)

    # Addresses and routes

    def addresses(self, index: int) -> list[Address]:
        """Return the addresses of an interface, both families."""
        return [unpack_address(payload) for payload in self.dump(RTM_GETADDR, pack_interface(index))]

    def add_address(self, index: int, cidr: str) -> None:
        """Add an address, "10.0.0.1/24" or "2001:db8::1/64"; IPv6 without duplicate address detection."""
        self.do(RTM_NEWADDR, pack_address(index, cidr), NLM_F_CREATE | NLM_F_EXCL)

    def add_route(
        self,
        index: int,
        destination: str,
        *,
        gateway: str = "",
        mtu: int = 0,
        advmss: int = 0,
        priority: int = 0,
        table: int = 0,
        scope: int | None = None,
    ) -> None:
        """Add a unicast route over the interface; an IPv4 route without gateway gets link scope by default.

        `table` 0 is the main table (254); `mtu` and `advmss` are in bytes, 0 for the kernel's default. Routes to
        the same destination by other next hops stay: of IPv4 routes the newest is used, and IPv6 routes with
        gateways become one multipath route. Raises NetlinkError, with EEXIST only if exactly this route exists.
        """
        network = ipaddress.ip_network(destination, strict=False)
        if scope is None:
            scope = RT_SCOPE_UNIVERSE if gateway or network.version == 6 else RT_SCOPE_LINK
        packed = pack_route_header(network, table=table or RT_TABLE_MAIN, scope=scope)
        packed += u32(RTA_OIF, index)
        if gateway:
            packed += attribute(RTA_GATEWAY, ipaddress.ip_address(gateway).packed)
        if priority:
            packed += u32(RTA_PRIORITY, priority)
        if metrics := (u32(RTAX_MTU, mtu) if mtu else b"") + (u32(RTAX_ADVMSS, advmss) if advmss else b""):
            packed += nested(RTA_METRICS, metrics)
        self.do(RTM_NEWROUTE, packed, NLM_F_CREATE)

    # Requests

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """Return all objects that an RTM_GET* request lists, each starting at its header (struct rtmsg, ...).

        An interface that is gone has none.
        """
        try:
            return [answer.payload for answer in self.request(kind, NLM_F_DUMP, payload) if answer.kind == kind - 2]
        except NetlinkError as error:
            if error.errno == errno.ENODEV:  # of the interface that the dump was limited to
                return []
            raise

    def get(self, kind: int, payload: bytes) -> bytes:
        """Return the one object that an RTM_GET* request asks for."""
        return next(answer.payload for answer in self.request(kind, 0, payload) if answer.kind == kind - 2)
