"""Route netlink: requests for links with their VFs, addresses and routes, in as few messages as possible."""

from __future__ import annotations

import errno
import ipaddress
import random
from collections.abc import Sequence
from typing import Any

from wirespeed.kernel.netlink import address, bridgeport, link, route, virtual
from wirespeed.kernel.netlink.address import Interface
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
from wirespeed.kernel.netlink.link import Link
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
    """A route netlink socket (see NetlinkSocket)."""

    def __init__(self, *, netns_fd: int | None = None) -> None:
        super().__init__(NETLINK_ROUTE, netns_fd=netns_fd, options=_OPTIONS)

    # Links

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        """Return the interface with that name, alternative name or index; with its VFs' settings if `vfs`."""
        index, packed = (name, b"") if isinstance(name, int) else (0, link.pack_name(name))
        mask = link.RTEXT_FILTER_SKIP_STATS | (link.RTEXT_FILTER_VF if vfs else 0)
        request = link.pack_link(index) + packed + u32(link.IFLA_EXT_MASK, mask)
        try:
            return link.unpack_link(self.get(link.RTM_GETLINK, request))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
        return None

    def links(self) -> list[Link]:
        """Return all interfaces of the namespace."""
        request = link.pack_link() + u32(link.IFLA_EXT_MASK, link.RTEXT_FILTER_SKIP_STATS)
        return [link.unpack_link(payload) for payload in self.dump(link.RTM_GETLINK, request)]

    def link_of_device(self, parent: str) -> Link | None:
        """Return the interface of the device with this bus address (IFLA_PARENT_DEV_NAME, kernel 5.14)."""
        return next((each for each in self.links() if each.parent == parent), None)

    def set_link(
        self,
        index: int,
        *,
        netns_fd: int | None = None,
        name: str | None = None,
        master: int | None = None,
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

        `master` is the index of the bridge, bond or VRF that it becomes a port of, 0 for none.

        Moving takes the interface down; `up` then sets its state in the new namespace. `mtu` is in bytes; an
        `alias` of "" removes it. Not atomic: if the kernel refuses a change, those before it stay. The move is
        the first.
        """
        packed = b"" if netns_fd is None else u32(link.IFLA_NET_NS_FD, netns_fd)
        if name is not None:
            packed += text(link.IFLA_IFNAME, name)
        if master is not None:
            packed += u32(link.IFLA_MASTER, master)
        if mac is not None:
            packed += attribute(link.IFLA_ADDRESS, mac_bytes(mac))
        if mtu is not None:
            packed += u32(link.IFLA_MTU, mtu)
        if txqlen is not None:
            packed += u32(link.IFLA_TXQLEN, txqlen)
        if alias is not None:
            packed += attribute(link.IFLA_IFALIAS, alias.encode())
        flags = {
            link.IFF_UP: up,
            link.IFF_NOARP: None if arp is None else not arp,
            link.IFF_PROMISC: promisc,
            link.IFF_ALLMULTI: allmulti,
            link.IFF_MULTICAST: multicast,
        }
        change = sum(flag for flag, on in flags.items() if on is not None)
        value = sum(flag for flag, on in flags.items() if on)
        self.do(link.RTM_SETLINK, link.pack_link(index, flags=value, change=change) + packed)

    def detach_xdp(self, index: int, mode: str) -> None:
        """Detach the XDP program that is attached in that mode (XDP_MODES)."""
        self.do(link.RTM_SETLINK, link.pack_link(index) + link.pack_xdp_detachment(mode))

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        """Set the given settings of VF number `vf` of a PF, in one message.

        Not atomic: if the driver refuses one, those before it stay applied (order of `vf.pack_settings`). A VLAN's
        id, priority and protocol are one setting for the kernel, and so are the two rates: if one of them is
        given, all are set, the others to 0 (the protocol to 802.1Q).
        """
        if packed := pack_vf(vf, settings):
            self.do(link.RTM_SETLINK, link.pack_link(pf_index) + packed)

    def vf_stats(self, pf_index: int) -> dict[int, dict[int, bytes]]:
        """Return the counters of a PF's VFs by VF number: IFLA_VF_STATS_* attributes, each a packed u64."""
        listed = self._link_attribute(pf_index, IFLA_VFINFO_LIST, u32(link.IFLA_EXT_MASK, link.RTEXT_FILTER_VF))
        return unpack_stats(listed)

    def link_stats(self, index: int) -> bytes:
        """Return the counters of an interface: a struct rtnl_link_stats64 (linux/if_link.h)."""
        return self._link_attribute(index, link.IFLA_STATS64)

    def _link_attribute(self, index: int, wanted: int, packed: bytes = b"") -> bytes:
        """Return one attribute of an interface, b"" if it has none; `packed` are attributes of the request."""
        answer = self.get(link.RTM_GETLINK, link.pack_link(index) + packed)
        return attributes(answer, link.IFINFOMSG.size).get(wanted, b"")

    def vrf_table(self, index: int) -> int:
        """Return the routing table of a VRF, 0 for any other interface."""
        return link.unpack_vrf_table(self.get(link.RTM_GETLINK, link.pack_link(index)))

    def add_altname(self, index: int, name: str) -> None:
        """Give the interface an alternative name."""
        self._change_altname(link.RTM_NEWLINKPROP, index, name, NLM_F_CREATE | NLM_F_EXCL)

    def remove_altname(self, index: int, name: str) -> None:
        """Remove an alternative name from the interface."""
        self._change_altname(link.RTM_DELLINKPROP, index, name)

    def _change_altname(self, kind: int, index: int, name: str, flags: int = 0) -> None:
        self.do(kind, link.pack_link(index) + nested(link.IFLA_PROP_LIST, text(link.IFLA_ALT_IFNAME, name)), flags)

    # Virtual interfaces

    def create_link(self, name: str, kind: str, **options: Any) -> None:
        """Create a virtual interface; see `virtual.pack_virtual`. Raises NetlinkError with EEXIST."""
        self.do(link.RTM_NEWLINK, virtual.pack_virtual(name, kind, **options), NLM_F_CREATE | NLM_F_EXCL)

    def delete_link(self, name: str | int) -> None:
        """Delete a virtual interface by name or index, and with it the peer of a veth."""
        index, packed = (name, b"") if isinstance(name, int) else (0, link.pack_name(name))
        self.do(link.RTM_DELLINK, link.pack_link(index) + packed)

    def delete_links(self, indexes: Sequence[int]) -> None:
        """Delete virtual interfaces in one step: the kernel waits until no CPU uses them, once for all of them.

        They become members of a new group of interfaces, which is then deleted. Fails if one cannot be deleted.
        """
        group = u32(link.IFLA_GROUP, random.getrandbits(31) | 1 << 16)  # `ip link set group` uses small numbers
        for index in indexes:
            self.do(link.RTM_SETLINK, link.pack_link(index) + group)
        self.do(link.RTM_DELLINK, link.pack_link() + group)

    def set_bridge_port(self, index: int, *, hairpin: bool, isolated: bool) -> None:
        """Set the flags of a port of a bridge."""
        self.do(link.RTM_SETLINK, bridgeport.pack_port(index, hairpin=hairpin, isolated=isolated))

    def add_bridge_vlan(self, index: int, vlan: int, *, native: bool = False) -> None:
        """Add a VLAN to a port of a bridge; `native` makes it the port's untagged one."""
        self.do(link.RTM_SETLINK, bridgeport.pack_vlan(index, vlan, native=native))

    def delete_bridge_vlan(self, index: int, vlan: int) -> None:
        """Delete a VLAN of a port of a bridge."""
        self.do(link.RTM_DELLINK, bridgeport.pack_vlan(index, vlan))

    def bridge_vlans(self, index: int) -> list[int]:
        """Return the VLANs of a port of a bridge."""
        listed = map(bridgeport.unpack_vlans, self.dump(link.RTM_GETLINK, bridgeport.pack_vlan_request()))
        return next((vlans for port, vlans in listed if port == index), [])

    # Addresses and routes

    def addresses(self, index: int) -> list[Interface]:
        """Return the addresses of an interface, both families."""
        listed = self.dump(address.RTM_GETADDR, address.IFADDRMSG.pack(0, 0, 0, 0, index))
        return [address.unpack_address(payload) for payload in listed]

    def add_address(self, index: int, cidr: str, *, detect_duplicates: bool = False) -> None:
        """Add an address, "10.0.0.1/24" or "2001:db8::1/64".

        With `detect_duplicates`, IPv6 addresses are tentative until the kernel has asked the neighbours, unless the
        interface's sysctl accept_dad is 0.
        """
        packed = address.pack_address(index, cidr, detect_duplicates=detect_duplicates)
        self.do(address.RTM_NEWADDR, packed, NLM_F_CREATE | NLM_F_EXCL)

    def delete_address(self, index: int, cidr: str) -> None:
        """Delete an address."""
        self.do(address.RTM_DELADDR, address.pack_address(index, cidr))

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
        source: str = "",
        protocol: int = route.RTPROT_STATIC,
        exclusive: bool = False,
    ) -> None:
        """Add a unicast route over the interface; an IPv4 route without gateway gets link scope by default.

        `source` is the address that packets without one get. With `exclusive`, any route to the same destination
        with the same metric is an error (EEXIST).

        `table` 0 is the main table (254); `mtu` and `advmss` are in bytes, 0 for the kernel's default. Routes to
        the same destination by other next hops stay: of IPv4 routes the newest is used, and IPv6 routes with
        gateways become one multipath route. Raises NetlinkError, with EEXIST only if exactly this route exists.
        """
        network = ipaddress.ip_network(destination, strict=False)
        if scope is None:
            scope = route.RT_SCOPE_UNIVERSE if gateway or network.version == 6 else route.RT_SCOPE_LINK
        packed = route.pack_route_header(
            network, table=table or route.RT_TABLE_MAIN, scope=scope, protocol=protocol
        )
        packed += u32(route.RTA_OIF, index)
        if gateway:
            packed += attribute(route.RTA_GATEWAY, ipaddress.ip_address(gateway).packed)
        if source:
            packed += attribute(route.RTA_PREFSRC, ipaddress.ip_address(source).packed)
        if priority:
            packed += u32(route.RTA_PRIORITY, priority)
        metrics = u32(route.RTAX_MTU, mtu) if mtu else b""
        metrics += u32(route.RTAX_ADVMSS, advmss) if advmss else b""
        if metrics:
            packed += nested(route.RTA_METRICS, metrics)
        self.do(route.RTM_NEWROUTE, packed, NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0))

    def delete_route(self, index: int, destination: str) -> None:
        """Delete the first unicast route to a network over the interface, of the main table. Raises NetlinkError.

        RT_SCOPE_NOWHERE and RTPROT_UNSPEC stand for any scope and any protocol here.
        """
        network = ipaddress.ip_network(destination, strict=False)
        packed = route.pack_route_header(
            network, table=route.RT_TABLE_MAIN, scope=route.RT_SCOPE_NOWHERE, protocol=route.RTPROT_UNSPEC
        )
        self.do(route.RTM_DELROUTE, packed + u32(route.RTA_OIF, index))

    # Requests

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """Return what an RTM_GET* request lists, each from its header on; nothing for an interface that is gone."""
        try:
            return [answer.payload for answer in self.request(kind, NLM_F_DUMP, payload) if answer.kind == kind - 2]
        except NetlinkError as error:
            if error.errno == errno.ENODEV:  # of the interface that the dump was limited to
                return []
            raise

    def get(self, kind: int, payload: bytes) -> bytes:
        """Return the one object that an RTM_GET* request asks for."""
        return next(answer.payload for answer in self.request(kind, 0, payload) if answer.kind == kind - 2)
