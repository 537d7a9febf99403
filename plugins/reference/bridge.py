"""bridge: a veth whose end on the node is a port of a Linux bridge, which is created when it is first needed."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from wirespeed import errors, structs
from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam
from wirespeed.kernel import netns
from wirespeed.kernel.netlink import virtual
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import IF_OPER_UP, Link
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netlink.wait import wait_for
from wirespeed.keys import normalize_case
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.plugins.reference.pod import Sides

_FIREWALL = ("ipMasq", "macspoofchk")
_PORT_TIMEOUT = 2.5  # seconds for a port of the bridge to come up


class TrunkKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The keys of an element of `vlanTrunk`: one VLAN, or a range."""

    id: conf.VlanId | None = None
    first: conf.VlanId | None = msgspec.field(name="minID", default=None)
    last: conf.VlanId | None = msgspec.field(name="maxID", default=None)


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The plugin's keys. A configuration with `ipMasq` or `macspoofchk` is left to the executable."""

    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    mtu: conf.Mtu = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: conf.Vlan = 0
    vlan_trunk: list[TrunkKeys] | None = None
    preserve_default_vlan: bool = False
    enable_dad: bool = msgspec.field(name="enabledad", default=False)
    disable_container_interface: bool = False
    port_isolation: bool = False
    ipam: dict[str, Any] = {}

    @property
    def trunk(self) -> list[int]:
        """The VLANs of `vlanTrunk`. Raises Error(INVALID_CONFIG)."""
        found: set[int] = set()
        for index, each in enumerate(self.vlan_trunk or ()):
            if (each.first is None) != (each.last is None) or (each.first or 0) > (each.last or 0):
                key = f"vlanTrunk[{index}]"
                raise Error(Kind.INVALID_CONFIG, key=key, expected="minID and a maxID that is not less, or neither")
            if each.first is not None and each.last is not None:
                found.update(range(each.first, each.last + 1))
            if each.id is not None:
                found.add(each.id)
        return sorted(found)


def executed(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has keys whose work is done with iptables or nftables, which the executable does."""
    return any(normalize_case(config, _FIREWALL).get(key) for key in _FIREWALL)


class Bridge:
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    deletes_interface: Literal[True] = True  # see `wirespeed.cni.plugin.DeletesInterface`

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def add(self, request: Request) -> Result:
        keys, mac = _read(request)
        with pods.opened(request) as sides:
            bridge = _ensure_bridge(sides.host, keys)
            port = _create_veth(request, sides, bridge, keys, mac)
            try:
                return self._configure(request, sides, keys, port)
            except BaseException:
                errors.run_all([lambda: self._undo(request)])
                raise

    def _configure(self, request: Request, sides: Sides, keys: Keys, port: Link) -> Result:
        inside = pods.find(sides.pod, request.ifname)
        result = results.empty()
        more: list[Link] = []
        if keys.ipam.get("type"):
            result |= pods.allocate(request, self._ipam)
            _complete_gateways(result, keys)
            pods.configure(sides, inside, result, _sysctls(request.ifname, keys))
            if keys.is_gateway or keys.is_default_gateway:
                more = _make_gateway(sides.host, keys, result["ips"])
        elif not keys.disable_container_interface:
            sides.pod.set_link(inside.index, up=True)
        if not keys.disable_container_interface:
            _wait_for_port(port)
        bridge = pods.find(sides.host, keys.bridge, "bridge")
        result["interfaces"] = [
            {"name": bridge.name, "mac": bridge.mac},
            {"name": port.name, "mac": port.mac},
            {"name": request.ifname, "mac": inside.mac, "sandbox": request.netns},
            *({"name": each.name, "mac": each.mac} for each in more),
        ]
        result["dns"] = conf.dns(request) or result["dns"]
        return result

    def _undo(self, request: Request) -> None:
        errors.run_all([lambda: pods.delete_interface(request), lambda: self._ipam.delete(request, attached=False)])

    def delete(self, request: Request) -> None:
        errors.run_all([lambda: pods.delete_interface(request), lambda: self._ipam.delete(request)])

    def check(self, request: Request) -> None:
        keys, _ = _read(request)
        self._ipam.check(request)
        with pods.opened(request) as sides:
            pods.raise_drift(pods.drift(request, sides.pod, virtual.VETH) + _node_drift(request, sides, keys))

    def gc(self, request: Request) -> None:
        self._ipam.gc(request)

    def status(self, request: Request) -> None:
        self._ipam.status(request)


def _read(request: Request) -> tuple[Keys, str]:
    """Read the keys, and the MAC of the pod's interface. Raises Error(INVALID_CONFIG)."""
    keys = conf.read(request, Keys)
    _ = keys.trunk
    if keys.hairpin_mode and keys.promisc_mode:
        raise Error(Kind.INVALID_CONFIG, '"hairpinMode" and "promiscMode" exclude each other', key="promiscMode")
    if keys.disable_container_interface and keys.ipam.get("type"):
        raise Error(Kind.INVALID_CONFIG, "an interface that stays down gets no address", key="ipam.type")
    return keys, conf.requested_mac(request)


def _ensure_bridge(host: Rtnl, keys: Keys) -> Link:
    """Return the bridge, after creating it if it does not exist, and setting it up. Raises Error(INTERFACE)."""
    with pods.interface_errors(f"bridge {keys.bridge}"):
        bridge = host.link(keys.bridge)
        if bridge is None:
            data = virtual.bridge_data(vlan_filtering=bool(keys.vlan or keys.vlan_trunk is not None))
            try:
                host.create_link(keys.bridge, virtual.BRIDGE, data=data, mtu=keys.mtu)
            except NetlinkError as error:  # another process has created it meanwhile
                if error.errno != errno.EEXIST:
                    raise
            bridge = pods.find(host, keys.bridge, "bridge")
        if bridge.kind != virtual.BRIDGE:
            kind = bridge.kind or "physical"
            raise Error(Kind.INTERFACE, "expected a bridge", where=f"interface {keys.bridge}", got=kind)
        promisc = True if keys.promisc_mode and not bridge.promisc else None
        if promisc or not bridge.up:
            pods.write_sysctls(None, {f"net/ipv6/conf/{bridge.name}/accept_ra": "0"})
            host.set_link(bridge.index, up=True, promisc=promisc)
    return bridge


def _create_veth(request: Request, sides: Sides, bridge: Link, keys: Keys, mac: str) -> Link:
    """Create the pod's interface, and its peer as the bridge's port; return the peer. Raises Error(INTERFACE)."""
    with pods.interface_errors(f"interface {request.ifname}"), netns.current() as node:
        port = pods.create_veth(sides, request.ifname, node, mtu=keys.mtu, mac=mac)
    try:
        with pods.interface_errors(f"port {port.name} of bridge {bridge.name}"):
            _join(sides.host, port, bridge, keys)
    except BaseException:
        pods.delete_interface(request)
        raise
    return port


def _join(host: Rtnl, port: Link, bridge: Link, keys: Keys) -> None:
    pods.write_sysctls(None, {f"net/ipv6/conf/{port.name}/accept_ra": "0"})
    host.set_link(port.index, master=bridge.index, up=True)
    if keys.hairpin_mode or keys.port_isolation:
        host.set_bridge_port(port.index, hairpin=keys.hairpin_mode, isolated=keys.port_isolation)
    _set_vlans(host, port.index, keys.vlan, keys.trunk, keep_default=keys.preserve_default_vlan)


def _set_vlans(host: Rtnl, port: int, native: int, trunk: Iterable[int], *, keep_default: bool) -> None:
    """Set the VLANs of a port; a trunk without a native VLAN has VLAN 1 as such."""
    tagged = list(trunk)
    if not native and not tagged:
        return
    if not keep_default:
        for each in host.bridge_vlans(port):
            host.delete_bridge_vlan(port, each)
    if native:
        host.add_bridge_vlan(port, native, native=True)
    for each in tagged:
        host.add_bridge_vlan(port, each)
    if not native:
        host.add_bridge_vlan(port, 1, native=True)


def _sysctls(ifname: str, keys: Keys) -> dict[str, str]:
    values = {f"net/ipv4/conf/{ifname}/arp_notify": "1"}
    if keys.enable_dad:
        return values | {f"net/ipv6/conf/{ifname}/{name}_dad": "1" for name in ("enhanced", "accept")}
    return values | {f"net/ipv6/conf/{ifname}/accept_dad": "0"}


def _complete_gateways(result: Result, keys: Keys) -> None:
    """Add to a result the gateways that IPAM left out, and the default routes of `isDefaultGateway`."""
    done = set()
    for ip in result["ips"]:
        ip["interface"] = 2
        network = ipaddress.ip_interface(ip["address"]).network
        if not ip.get("gateway") and (keys.is_gateway or keys.is_default_gateway):
            ip["gateway"] = str(network.network_address + 1)
        if not keys.is_default_gateway or network.version in done:
            continue
        done.add(network.version)
        default = "0.0.0.0/0" if network.version == 4 else "::/0"
        if not any(route.get("gw") and route["dst"] == default for route in result["routes"]):
            result["routes"] = [*result["routes"], {"dst": default, "gw": ip["gateway"]}]


def _make_gateway(host: Rtnl, keys: Keys, ips: Sequence[Mapping[str, Any]]) -> list[Link]:
    """Give the bridge, or its interface of the VLAN, the gateways' addresses, and switch on forwarding.

    Return the interface of the VLAN, if there is one.
    """
    more: dict[str, Link] = {}
    for ip in sorted(ips, key=lambda ip: ":" in ip["address"]):
        with pods.interface_errors(f"bridge {keys.bridge}"):
            bridge = pods.find(host, keys.bridge, "bridge")
            if keys.vlan:
                bridge = more.setdefault("vlan", _ensure_vlan_interface(host, bridge, keys))
            length = ip["address"].partition("/")[2]
            _ensure_address(host, bridge, f"{ip['gateway']}/{length}", force=keys.force_address)
    pods.enable_forwarding_of(ips)
    return list(more.values())


def _ensure_vlan_interface(host: Rtnl, bridge: Link, keys: Keys) -> Link:
    """Return the node's interface in the bridge's VLAN: a veth whose peer is a port of the bridge."""
    name = f"{bridge.name}.{keys.vlan}"
    found = host.link(name)
    if found is not None:
        return found
    with netns.current() as node:
        peer = pods.random_name()
        data = virtual.veth_data(peer, mtu=bridge.mtu, netns_fd=node, txqlen=0)
        host.create_link(name, virtual.VETH, data=data, mtu=bridge.mtu, up=True)
    port = pods.find(host, peer)
    pods.write_sysctls(None, {f"net/ipv6/conf/{peer}/accept_ra": "0"})
    host.set_link(port.index, master=bridge.index, up=True)
    _set_vlans(host, port.index, keys.vlan, (), keep_default=keys.preserve_default_vlan)
    return pods.find(host, name)


def _ensure_address(host: Rtnl, link: Link, gateway: str, *, force: bool) -> None:
    """Give the interface the gateway's address. Raises Error(ADDRESS) if it has another one of the same network."""
    wanted = ipaddress.ip_interface(gateway)
    for each in host.addresses(link.index):
        if each == wanted:
            return
        if each.version != wanted.version:
            continue
        if wanted.version == 4 or wanted.ip in each.network or each.ip in wanted.network:
            if not force:
                what = f'it has another address, {each}; set "forceAddress" to replace it'
                raise Error(Kind.ADDRESS, what, where=f"interface {link.name}", expected=gateway)
            host.delete_address(link.index, str(each))
    try:
        host.add_address(link.index, gateway, detect_duplicates=True)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
    host.set_link(link.index, mac=link.mac)  # a bridge would otherwise take the lowest MAC of its ports, in turn


def _wait_for_port(port: Link) -> None:
    """Wait until the port of the bridge is up. Raises Error(INTERFACE)."""

    def up(rtnl: Rtnl) -> Link | None:
        link = pods.find(rtnl, port.name)
        return link if link.operstate == IF_OPER_UP else None

    if wait_for(up, _PORT_TIMEOUT) is None:
        raise Error(Kind.INTERFACE, f"not up after {_PORT_TIMEOUT} s", where=f"port {port.name} of the bridge")


def _node_drift(request: Request, sides: Sides, keys: Keys) -> list[str]:
    """Return how bridge and port differ from what ADD made, as messages."""
    bridge, inside = sides.host.link(keys.bridge), sides.pod.link(request.ifname)
    if bridge is None or bridge.kind != virtual.BRIDGE:
        return [f"there is no bridge {keys.bridge}"]
    wrong = []
    if bridge.promisc != keys.promisc_mode:
        wrong.append(f"promiscuous mode of {keys.bridge} is {'on' if bridge.promisc else 'off'}")
    port = sides.host.link(inside.lower) if inside is not None and inside.lower else None
    if port is None or port.kind != virtual.VETH or port.master != bridge.index:
        wrong.append(f"the other end of {request.ifname} is no port of {keys.bridge}")
    return wrong
