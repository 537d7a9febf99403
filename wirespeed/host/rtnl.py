"""Route netlink for ADD and DEL: links with their VFs, addresses and routes, in as few messages as possible.

pyroute2 takes 1.6 ms to decode one link; an ADD decodes two. This codec knows only the attributes needed to
move a VF into a pod (linux/if_link.h, linux/rtnetlink.h) and packs them with struct. A test compares it with
pyroute2.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import TypeVar

from wirespeed.cni.errors import CniError, Code
from wirespeed.host import netns

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE = 20, 22, 24
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109
RTMGRP_LINK = 1
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFF_UP, IFF_RUNNING, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI, IFF_MULTICAST = 0x1, 0x40, 0x80, 0x100, 0x200, 0x1000
NLA_F_NESTED = 0x8000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN, IFLA_IFALIAS = 1, 3, 4, 10, 13, 20
IFLA_VFINFO_LIST, IFLA_STATS64, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_XDP = 22, 23, 28, 29, 43
IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_PERM_ADDRESS, IFLA_PARENT_DEV_NAME = 52, 53, 54, 56
RTEXT_FILTER_VF, RTEXT_FILTER_SKIP_STATS = 1, 8

IFLA_VF_MAC, IFLA_VF_VLAN, IFLA_VF_SPOOFCHK, IFLA_VF_LINK_STATE = 1, 2, 4, 5
IFLA_VF_RATE, IFLA_VF_STATS, IFLA_VF_TRUST, IFLA_VF_VLAN_LIST, IFLA_VF_VLAN_INFO = 6, 8, 9, 12, 1
IFLA_VF_INFO, IFLA_VF_IB_NODE_GUID, IFLA_VF_IB_PORT_GUID = 1, 10, 11

IFLA_XDP_FD, IFLA_XDP_FLAGS = 1, 3
# How an XDP program is attached: (IFLA_XDP_*_PROG_ID, present if one is; XDP_FLAGS_*_MODE).
XDP_MODES = {"native": (5, 4), "generic": (6, 2), "offloaded": (7, 8)}

# How long a VF's driver may take to learn of a MAC that was set on the PF, in seconds, and the errors that it
# returns meanwhile: i40e and ice reset the VF for a new MAC, and iavf then answers "try again".
MAC_TIMEOUT = 2.0
MAC_NOT_YET = frozenset({errno.EAGAIN, errno.EBUSY, errno.EACCES})

ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
VLAN_PROTOCOLS = {"802.1q": ETH_P_8021Q, "802.1ad": ETH_P_8021AD}
LINK_STATES = {"auto": 0, "enable": 1, "disable": 2}
ARPHRD_INFINIBAND = 32  # linux/if_arp.h

T = TypeVar("T")

_HEADER = struct.Struct("IHHII")
_ATTRIBUTE = struct.Struct("HH")
_IFINFO = struct.Struct("BxHiII")
_U32 = struct.Struct("I")
_GUID = struct.Struct("I4xQ")  # struct ifla_vf_guid
_LONGEST = 1 << 18  # bytes of an answer: that of a PF with 256 VFs takes a fifth of it
_UNSUPPORTED = 0xFFFFFFFF  # what the kernel reports for a VF setting that the driver does not fill in


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and as `strerror` its text, including the extended ack."""


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Turn a NetlinkError raised inside into a CniError(DEVICE) that begins with `where`."""
    try:
        yield
    except NetlinkError as error:
        raise CniError(Code.DEVICE, f"{where}: {error.strerror}") from error


# The settings that the kernel sets together.
VF_SETTING_GROUPS = (
    ("mac",),
    ("vlan", "vlan_qos", "vlan_proto"),
    ("min_tx_rate", "max_tx_rate"),
    ("spoofchk",),
    ("link_state",),
    ("trust",),
    ("node_guid",),
    ("port_guid",),
)


@dataclass(frozen=True, kw_only=True)
class VfSettings:
    """A PF driver's settings of one VF. None means "not reported" when read, "leave unchanged" when set.

    Rates are in Mbit/s, 0 for no limit; `vlan_proto` and `link_state` are the kernel's numbers; GUIDs are 8 bytes
    in hex, with colons when read.
    """

    mac: str | None = None
    vlan: int | None = None
    vlan_qos: int | None = None
    vlan_proto: int | None = None
    min_tx_rate: int | None = None
    max_tx_rate: int | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    link_state: int | None = None
    node_guid: str | None = None
    port_guid: str | None = None

    def differing(self, current: VfSettings) -> VfSettings:
        """Return only the settings that differ from the current ones."""
        return VfSettings(
            **{
                f.name: value
                for f in fields(self)
                if (value := getattr(self, f.name)) is not None and value != getattr(current, f.name)
            }
        )

    def items(self) -> list[tuple[str, object]]:
        """Return (name, value) of the settings that are not None."""
        return [(f.name, value) for f in fields(self) if (value := getattr(self, f.name)) is not None]

    def parts(self) -> Iterator[VfSettings]:
        """Yield the settings that are not None, one of VF_SETTING_GROUPS at a time."""
        given = dict(vars(self))
        for group in VF_SETTING_GROUPS:
            if part := {key: given[key] for key in group if given[key] is not None}:
                yield VfSettings(**part)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A network interface.

    `mtu` is in bytes. `permanent_mac` is the hardware's MAC, as its driver reports it. `master` is the index of the
    bridge or bond that it is a port of (0: none). `xdp` are the modes (XDP_MODES) in which an XDP program is
    attached. `parent` is the bus address of its device ("" for a virtual interface). An `infiniband` interface has
    a 20-byte address as `mac`, whose last 8 bytes are the GUID of its port. `vfs` are the VFs that its driver
    reports, by number.
    """

    index: int
    name: str
    mac: str
    mtu: int
    flags: int
    permanent_mac: str = ""
    txqlen: int = 0
    alias: str = ""
    master: int = 0
    xdp: tuple[str, ...] = ()
    parent: str = ""
    infiniband: bool = False
    altnames: tuple[str, ...] = ()
    vfs: Mapping[int, VfSettings] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Whether it is up and has a carrier."""
        return bool(self.flags & IFF_RUNNING)

    @property
    def promisc(self) -> bool:
        return bool(self.flags & IFF_PROMISC)

    @property
    def allmulti(self) -> bool:
        return bool(self.flags & IFF_ALLMULTI)

    @property
    def arp(self) -> bool:
        return not self.flags & IFF_NOARP

    @property
    def multicast(self) -> bool:
        return bool(self.flags & IFF_MULTICAST)

    def vf(self, number: int) -> VfSettings:
        """Return the driver's settings of one VF. Raises CniError(TRY_AGAIN_LATER) if they are not reported now.

        The kernel omits a VF if the driver fails to return its settings, as some drivers do while they reset the
        VF (rtnl_fill_vfinfo).
        """
        if (found := self.vfs.get(number)) is None:
            raise CniError(
                Code.TRY_AGAIN_LATER,
                f"PF {self.name}: its driver does not tell what it holds for VF {number}, as while it resets it",
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Address:
    """An address of an interface, as "10.0.0.1/24"."""

    index: int
    cidr: str


class Rtnl:
    """A route netlink socket in the calling thread's network namespace, or in the one open at `netns_fd`.

    Not shared between threads. Every request raises NetlinkError if the kernel refuses.
    """

    def __init__(self, *, netns_fd: int | None = None) -> None:
        def make() -> socket.socket:
            made = _socket()
            made.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK: errors come with a text
            made.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK: errors do not repeat our request
            made.setsockopt(270, 12, 1)  # NETLINK_GET_STRICT_CHK: dumps can be filtered by interface
            made.bind((0, 0))
            return made

        self._socket = make() if netns_fd is None else netns.inside(netns_fd, make)
        self._sequence = 0
        self._buffer = bytearray(_LONGEST)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Links

    def link(self, name: str | int, *, vfs: bool = False) -> Link | None:
        """Return the interface with that name, alternative name or index; with its VFs' settings if `vfs`."""
        index, attributes = (name, b"") if isinstance(name, int) else (0, _name_attribute(name))
        mask = RTEXT_FILTER_SKIP_STATS | (RTEXT_FILTER_VF if vfs else 0)
        body = _IFINFO.pack(0, 0, index, 0, 0) + attributes + _u32(IFLA_EXT_MASK, mask)
        try:
            for kind, payload in self._request(RTM_GETLINK, 0, body):
                if kind == RTM_NEWLINK:
                    return _link(payload)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
        return None

    def links(self) -> list[Link]:
        """Return all interfaces of the namespace."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + _u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        found = self._request(RTM_GETLINK, NLM_F_DUMP, body)
        return [_link(payload) for kind, payload in found if kind == RTM_NEWLINK]

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
        attributes = b"" if netns_fd is None else _u32(IFLA_NET_NS_FD, netns_fd)
        if name is not None:
            attributes += _text(IFLA_IFNAME, name)
        if mac is not None:
            attributes += _attribute(IFLA_ADDRESS, _mac_bytes(mac))
        if mtu is not None:
            attributes += _u32(IFLA_MTU, mtu)
        if txqlen is not None:
            attributes += _u32(IFLA_TXQLEN, txqlen)
        if alias is not None:
            attributes += _attribute(IFLA_IFALIAS, alias.encode())
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
        self._do(RTM_SETLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, value, change) + attributes)

    def detach_xdp(self, index: int, mode: str) -> None:
        """Detach the XDP program that is attached in that mode (XDP_MODES).

        The kernel detaches no program of another mode. Without a mode in the message, it assumes the native one if
        the driver supports that: a generic program would stay, and the kernel would report success.
        """
        flags = _u32(IFLA_XDP_FLAGS, XDP_MODES[mode][1])
        nested = _attribute(IFLA_XDP | NLA_F_NESTED, _attribute(IFLA_XDP_FD, struct.pack("i", -1)) + flags)
        self._do(RTM_SETLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, 0, 0) + nested)

    def set_vf(self, pf_index: int, vf: int, settings: VfSettings) -> None:
        """Set the given settings of VF number `vf` of a PF, in one message.

        Not atomic: if the driver refuses one, those before it stay applied (order of `vf_attributes`). A VLAN's
        id, priority and protocol are one setting for the kernel, and so are the two rates: if one of them is
        given, all are set, the others to 0 (the protocol to 802.1Q).
        """
        infos = b"".join(_attribute(IFLA_VF_INFO | NLA_F_NESTED, info) for info in vf_infos(vf, settings))
        if infos:
            nested = _attribute(IFLA_VFINFO_LIST | NLA_F_NESTED, infos)
            self._do(RTM_SETLINK, NLM_F_ACK, _IFINFO.pack(0, 0, pf_index, 0, 0) + nested)

    def vf_stats(self, pf_index: int) -> dict[int, dict[int, bytes]]:
        """Return the counters of the VFs of a PF that its driver reports, by VF number.

        The counters of a VF are IFLA_VF_STATS_* attributes, each a packed u64.
        """
        listed = self._of_link(pf_index, IFLA_VFINFO_LIST, _u32(IFLA_EXT_MASK, RTEXT_FILTER_VF))
        vfs = {number: dict(_attributes(info)) for number, info in _by_number(listed).items()}
        return {number: dict(_attributes(vf.get(IFLA_VF_STATS, b""))) for number, vf in vfs.items()}

    def link_stats(self, index: int) -> bytes:
        """Return the counters of an interface: a struct rtnl_link_stats64 (linux/if_link.h)."""
        return self._of_link(index, IFLA_STATS64, b"")

    def _of_link(self, index: int, wanted: int, attributes: bytes) -> bytes:
        """Return one attribute of an interface, b"" if it has none."""
        for kind, payload in self._request(RTM_GETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + attributes):
            if kind == RTM_NEWLINK:
                return dict(_attributes(payload, _IFINFO.size)).get(wanted, b"")
        return b""

    def add_altname(self, index: int, name: str) -> None:
        """Give the interface an alternative name."""
        self._altname(RTM_NEWLINKPROP, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, index, name)

    def remove_altname(self, index: int, name: str) -> None:
        """Remove an alternative name from the interface."""
        self._altname(RTM_DELLINKPROP, NLM_F_ACK, index, name)

    def _altname(self, kind: int, flags: int, index: int, name: str) -> None:
        nested = _attribute(IFLA_PROP_LIST | NLA_F_NESTED, _text(IFLA_ALT_IFNAME, name))
        self._do(kind, flags, _IFINFO.pack(0, 0, index, 0, 0) + nested)

    # Addresses and routes

    def addresses(self, index: int) -> list[Address]:
        """Return the addresses of an interface, both families."""
        body = struct.pack("BBBBi", 0, 0, 0, 0, index)
        return [
            _address(payload)
            for kind, payload in self._request(RTM_GETADDR, NLM_F_DUMP, body)
            if kind == RTM_NEWADDR
        ]

    def add_address(self, index: int, cidr: str) -> None:
        """Add an address, "10.0.0.1/24" or "2001:db8::1/64"; IPv6 without duplicate address detection."""
        interface = ipaddress.ip_interface(cidr)
        six = interface.version == 6
        flags = 0x02 if six else 0  # IFA_F_NODAD: the IPAM ensures that it is unique; it is usable at once
        body = struct.pack(
            "BBBBi", socket.AF_INET6 if six else socket.AF_INET, interface.network.prefixlen, flags, 0, index
        )
        body += _attribute(2, interface.ip.packed) + _attribute(1, interface.ip.packed)  # IFA_LOCAL, IFA_ADDRESS
        if not six and interface.network.prefixlen < 31:
            body += _attribute(4, interface.network.broadcast_address.packed)  # IFA_BROADCAST
        self._do(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)

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
            scope = 0 if gateway or network.version == 6 else 253  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK
        table = table or 254
        family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
        # rtm_table is one byte: larger numbers are in RTA_TABLE alone. RTPROT_STATIC, RTN_UNICAST.
        body = struct.pack(
            "BBBBBBBBI", family, network.prefixlen, 0, 0, table if table < 256 else 0, 4, scope, 1, 0
        )
        if network.prefixlen:
            body += _attribute(1, network.network_address.packed)  # RTA_DST
        body += _u32(4, index) + _u32(15, table)  # RTA_OIF, RTA_TABLE
        if gateway:
            body += _attribute(5, ipaddress.ip_address(gateway).packed)  # RTA_GATEWAY
        if priority:
            body += _u32(6, priority)  # RTA_PRIORITY
        metrics = (_u32(2, mtu) if mtu else b"") + (_u32(8, advmss) if advmss else b"")  # RTAX_MTU, RTAX_ADVMSS
        if metrics:
            body += _attribute(8 | NLA_F_NESTED, metrics)  # RTA_METRICS
        self._do(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, body)

    # Requests

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return all objects that an RTM_GET* request lists, each starting at its header (struct rtmsg, ...)."""
        return [payload for answer, payload in self._request(kind, NLM_F_DUMP, body) if answer == kind - 2]

    def get(self, kind: int, body: bytes) -> bytes:
        """Return the one object that an RTM_GET* request asks for."""
        return next(payload for answer, payload in self._request(kind, 0, body) if answer == kind - 2)

    def do(self, kind: int, body: bytes) -> None:
        """Send a request and wait for its acknowledgement."""
        self._do(kind, NLM_F_ACK, body)

    def _do(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._request(kind, flags, body):
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Send one request and yield the (type, payload) of its answers; raises NetlinkError."""
        self._sequence += 1
        self._socket.send(
            _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, self._sequence, 0) + body
        )
        multipart = flags & NLM_F_DUMP == NLM_F_DUMP or flags & NLM_F_ACK
        while True:
            data = bytes(memoryview(self._buffer)[: self._socket.recv_into(self._buffer)])
            offset = 0
            while offset < len(data):
                length, answer, answer_flags, sequence, _ = _HEADER.unpack_from(data, offset)
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # the rest of an earlier answer that was not read to its end
                if answer == NLMSG_ERROR:
                    _raise_for(payload, answer_flags)
                    return
                if answer == NLMSG_DONE:
                    return
                yield answer, payload
                if not multipart:
                    return


def wait_for_carrier(index: int, *, timeout: float) -> Link | None:
    """Wait up to `timeout` seconds until the interface in this thread's namespace is up with a carrier.

    Return the interface as it is then, or None if it is gone.
    """

    def settled(asking: Rtnl) -> tuple[Link | None] | None:
        link = asking.link(index)
        return (link,) if link is None or link.running else None

    if (found := wait_for(settled, timeout)) is not None:
        return found[0]
    with Rtnl() as asking:
        return asking.link(index)


def set_mac(index: int, mac: str, *, again_on: Collection[int], timeout: float) -> None:
    """Set the MAC of an interface in this thread's namespace; retry while the kernel returns one of `again_on`.

    Retries at each change of a link and ten times a second (not every driver notifies), for up to `timeout`
    seconds. Also succeeds if the driver has meanwhile set the MAC itself. Raises the last NetlinkError.
    """
    refusals: list[NetlinkError] = []

    def done(asking: Rtnl) -> bool | None:
        link = asking.link(index)
        if link is not None and link.mac == mac:
            return True
        try:
            asking.set_link(index, mac=mac)
        except NetlinkError as error:
            if error.errno not in again_on:
                raise
            refusals.append(error)
            return None
        return True

    if not wait_for(done, timeout, every=0.1):
        raise refusals[-1]


def wait_for(look: Callable[[Rtnl], T | None], timeout: float, *, every: float = math.inf) -> T | None:
    """Call `look` until it returns something, and return that; None after `timeout` seconds.

    It is called in this thread's namespace: at once, at each change of a link, and every `every` seconds.
    """
    deadline = time.monotonic() + timeout
    with _socket() as events, Rtnl() as asking:
        events.bind((0, RTMGRP_LINK))  # before the first look, so that no change after it is missed
        poller = select.poll()  # select(2) fails for descriptors above 1023
        poller.register(events, select.POLLIN)
        while True:
            if (found := look(asking)) is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if poller.poll(math.ceil(1000 * min(left, every))):
                try:
                    events.recv(1 << 16)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # events were lost: the look that follows sees their effect
                        raise


def vf_infos(vf: int, settings: VfSettings) -> list[bytes]:
    """Pack the settings of a VF into IFLA_VF_INFOs: the kernel ignores what follows a GUID in the same one."""
    attributes = list(vf_attributes(vf, settings))
    first = len(attributes) - sum(guid is not None for guid in (settings.node_guid, settings.port_guid))
    return [info for info in (b"".join(attributes[:first]), *attributes[first:]) if info]


def vf_attributes(vf: int, settings: VfSettings) -> Iterator[bytes]:
    """Yield the settings of a VF as netlink attributes, in the order in which the kernel applies them.

    The kernel applies them in this order (do_setvfinfo), whatever the order in the message.
    """
    if settings.mac is not None:
        yield _attribute(IFLA_VF_MAC, _U32.pack(vf) + _mac_bytes(settings.mac).ljust(32, b"\0"))
    if settings.vlan is not None or settings.vlan_qos is not None or settings.vlan_proto is not None:
        info = struct.pack("III", vf, settings.vlan or 0, settings.vlan_qos or 0)
        info += struct.pack(">HH", settings.vlan_proto or ETH_P_8021Q, 0)
        yield _attribute(IFLA_VF_VLAN_LIST | NLA_F_NESTED, _attribute(IFLA_VF_VLAN_INFO, info))
    if settings.min_tx_rate is not None or settings.max_tx_rate is not None:
        rates = struct.pack("III", vf, settings.min_tx_rate or 0, settings.max_tx_rate or 0)
        yield _attribute(IFLA_VF_RATE, rates)
    if settings.spoofchk is not None:
        yield _attribute(IFLA_VF_SPOOFCHK, struct.pack("II", vf, settings.spoofchk))
    if settings.link_state is not None:
        yield _attribute(IFLA_VF_LINK_STATE, struct.pack("II", vf, settings.link_state))
    if settings.trust is not None:
        yield _attribute(IFLA_VF_TRUST, struct.pack("II", vf, settings.trust))
    if settings.node_guid is not None:
        yield _attribute(IFLA_VF_IB_NODE_GUID, _GUID.pack(vf, int(settings.node_guid.replace(":", ""), 16)))
    if settings.port_guid is not None:
        yield _attribute(IFLA_VF_IB_PORT_GUID, _GUID.pack(vf, int(settings.port_guid.replace(":", ""), 16)))


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _raise_for(payload: bytes, flags: int) -> None:
    """Raise for an NLMSG_ERROR whose number is not 0 (0 is an acknowledgement)."""
    number = -struct.unpack_from("i", payload)[0]
    if not number:
        return
    text = os.strerror(number)
    if flags & 0x200:  # NLM_F_ACK_TLVS; they follow the request, of which NLM_F_CAPPED leaves only the header
        start = 4 + _HEADER.size if flags & 0x100 else 4 + _HEADER.unpack_from(payload, 4)[0]
        said = dict(_attributes(payload, start)).get(1, b"").rstrip(b"\0").decode(errors="replace")
        text += f" ({said})" if said else ""
    raise NetlinkError(number, text)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, _U32.pack(value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _name_attribute(name: str) -> bytes:
    return _text(IFLA_IFNAME if len(name) < 16 else IFLA_ALT_IFNAME, name)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    found = []
    end, unpack = len(data), _ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found.append((kind & 0x3FFF, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


def _link(payload: bytes) -> Link:
    _, kind, index, flags, _ = _IFINFO.unpack_from(payload)
    seen = dict(_attributes(payload, _IFINFO.size))
    properties = _attributes(seen.get(IFLA_PROP_LIST, b""))
    attached = dict(_attributes(seen.get(IFLA_XDP, b"")))
    return Link(
        index=index,
        name=_string(seen.get(IFLA_IFNAME)),
        mac=seen.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_U32.unpack(seen[IFLA_MTU])[0] if IFLA_MTU in seen else 0,
        flags=flags,
        permanent_mac=seen.get(IFLA_PERM_ADDRESS, b"").hex(":"),
        txqlen=_U32.unpack(seen[IFLA_TXQLEN])[0] if IFLA_TXQLEN in seen else 0,
        alias=_string(seen.get(IFLA_IFALIAS)),
        master=_U32.unpack(seen[IFLA_MASTER])[0] if IFLA_MASTER in seen else 0,
        xdp=tuple(mode for mode, (program, _) in XDP_MODES.items() if program in attached),
        parent=_string(seen.get(IFLA_PARENT_DEV_NAME)),
        infiniband=kind == ARPHRD_INFINIBAND,
        altnames=tuple(_string(value) for kind, value in properties if kind == IFLA_ALT_IFNAME),
        vfs=_Vfs(seen.get(IFLA_VFINFO_LIST, b"")),
    )


class _Vfs(Mapping[int, VfSettings]):
    """The VF settings that a PF's driver reports, decoded on access: mostly one of them is needed."""

    def __init__(self, listed: bytes) -> None:
        self._infos = _by_number(listed)

    def __len__(self) -> int:
        return len(self._infos)

    def __iter__(self) -> Iterator[int]:
        return iter(self._infos)

    def __getitem__(self, number: int) -> VfSettings:
        return _vf(self._infos[number])


def _by_number(listed: bytes) -> dict[int, bytes]:
    """Return the infos of an IFLA_VFINFO_LIST by VF number; not by position, as VFs may be omitted.

    The number is taken from the first attribute, IFLA_VF_MAC, whose value begins with it.
    """
    return {_U32.unpack_from(info, _ATTRIBUTE.size)[0]: info for _, info in _attributes(listed)}


def _vf(info: bytes) -> VfSettings:
    seen = dict(_attributes(info))

    def second(kind: int) -> int | None:
        value = _U32.unpack_from(seen[kind], 4)[0] if kind in seen else _UNSUPPORTED
        return None if value == _UNSUPPORTED else value

    def switch(kind: int) -> bool | None:
        value = second(kind)
        return None if value is None else bool(value)

    def guid(kind: int) -> str | None:
        return _GUID.unpack_from(seen[kind])[1].to_bytes(8, "big").hex(":") if kind in seen else None

    vlan: tuple[int | None, int | None, int | None] = (None, None, None)
    listed = dict(_attributes(seen.get(IFLA_VF_VLAN_LIST, b""))).get(IFLA_VF_VLAN_INFO)
    if listed:
        _, vid, qos = struct.unpack_from("III", listed)
        vlan = (vid, qos, struct.unpack_from(">H", listed, 12)[0] or ETH_P_8021Q)
    rates = struct.unpack_from("II", seen[IFLA_VF_RATE], 4) if IFLA_VF_RATE in seen else (None, None)
    return VfSettings(
        mac=seen[IFLA_VF_MAC][4:10].hex(":") if IFLA_VF_MAC in seen else None,
        vlan=vlan[0],
        vlan_qos=vlan[1],
        vlan_proto=vlan[2],
        min_tx_rate=rates[0],
        max_tx_rate=rates[1],
        spoofchk=switch(IFLA_VF_SPOOFCHK),
        trust=switch(IFLA_VF_TRUST),
        link_state=second(IFLA_VF_LINK_STATE),
        node_guid=guid(IFLA_VF_IB_NODE_GUID),
        port_guid=guid(IFLA_VF_IB_PORT_GUID),
    )


def _address(payload: bytes) -> Address:
    _, prefix, _, _, index = struct.unpack_from("BBBBi", payload)
    seen = dict(_attributes(payload, 8))
    packed = seen.get(2) or seen[1]  # IFA_LOCAL, for IPv6 IFA_ADDRESS alone
    return Address(index=index, cidr=f"{ipaddress.ip_address(packed)}/{prefix}")


def _string(value: bytes | None) -> str:
    return (value or b"").split(b"\0", 1)[0].decode()
