"""ptp: a veth between pod and node, with routes on both sides that send all packets over it."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal

import msgspec

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, run_all
from wirespeed.ipam import Ipam
from wirespeed.kernel import netns
from wirespeed.kernel.netlink import virtual
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.kernel.netlink.route import RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RTPROT_BOOT
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.keys import normalize_case
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.plugins.reference.pod import Sides


@structs.prepared
class Keys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The plugin's keys. A configuration with `ipMasq` is left to the executable."""

    mtu: conf.Mtu = 0
    ipam: dict[str, Any] = {}


def executed(config: Mapping[str, Any]) -> bool:
    """Whether a configuration masquerades, with iptables or nftables, which the executable does."""
    return bool(normalize_case(config, ("ipMasq",)).get("ipMasq"))


class Ptp:
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    deletes_interface: Literal[True] = True  # see `wirespeed.cni.plugin.DeletesInterface`

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def add(self, request: Request) -> Result:
        """Attach the pod. The veth comes before the addresses: an ADD that is repeated fails without a change."""
        keys = conf.read(request, Keys)
        if not keys.ipam.get("type"):
            raise Error(Kind.INVALID_CONFIG, key="ipam.type", missing=True)
        with pods.opened(request) as sides, ExitStack() as undo:
            port = _create_veth(request, sides, keys)
            undo.callback(pods.delete_interface, request)
            undo.callback(self._ipam.delete, request, attached=False)
            result = results.empty() | pods.allocate(request, self._ipam)
            _configure(request, sides, port, result)
            undo.pop_all()
        return result

    def delete(self, request: Request) -> None:
        run_all([lambda: pods.delete_interface(request), lambda: self._ipam.delete(request)])

    def check(self, request: Request) -> None:
        self._ipam.check(request)
        with pods.opened(request) as sides:
            pods.raise_drift(pods.drift(request, sides.pod, virtual.VETH))

    def gc(self, request: Request) -> None:
        self._ipam.gc(request)

    def status(self, request: Request) -> None:
        self._ipam.status(request)


def _create_veth(request: Request, sides: Sides, keys: Keys) -> Link:
    """Create the pod's interface, and its peer on the node, which is set up; return the peer.

    Raises Error(INTERFACE).
    """
    with pods.interface_errors(f"interface {request.ifname}"), netns.current() as node:
        port = pods.create_veth(sides, request.ifname, node, mtu=keys.mtu)
    try:
        pods.write_sysctls(None, {f"net/ipv6/conf/{port.name}/accept_ra": "0"})
        with pods.interface_errors(f"interface {port.name}"):
            sides.host.set_link(port.index, up=True)
    except BaseException:
        pods.delete_interface(request)
        raise
    return port


def _configure(request: Request, sides: Sides, port: Link, result: Result) -> None:
    """Configure both sides for the addresses of IPAM, and complete the result. Raises Error(ADDRESS, INTERFACE)."""
    inside = pods.find(sides.pod, request.ifname)
    result["interfaces"] = [
        {"name": port.name, "mac": port.mac},
        {"name": request.ifname, "mac": inside.mac, "sandbox": request.netns},
    ]
    result["dns"] = conf.dns(request) or result["dns"]
    for ip in result["ips"]:
        ip["interface"] = 1
        if not ip.get("gateway"):
            what = "it has no gateway, which is the node's address for the pod"
            raise Error(Kind.ADDRESS, what, where=f"address {ip['address']} of IPAM")
    pods.enable_forwarding_of(result["ips"])
    pods.configure(sides, inside, result)
    for ip in result["ips"]:
        with pods.address_errors(f"routes of {ip['address']} on {inside.name}"):
            _route_over_gateway(sides.pod, inside, ip)
    for ip in result["ips"]:
        with pods.address_errors(f"address {ip['gateway']} and route to {ip['address']} on {port.name}"):
            _route_to_pod(sides.host, port, ip)


def _route_over_gateway(pod: Rtnl, link: Link, ip: Mapping[str, Any]) -> None:
    """Send the packets to the address's network to the gateway too, which is on the link alone.

    The kernel has added a route to the network as on the link, where only the node is. Raises NetlinkError.
    """
    network, gateway = str(ipaddress.ip_interface(ip["address"]).network), ip["gateway"]
    source = ip["address"].partition("/")[0]
    pod.delete_route(link.index, network)
    for destination, via, scope in ((gateway, "", RT_SCOPE_LINK), (network, gateway, RT_SCOPE_UNIVERSE)):
        pod.add_route(
            link.index,
            destination,
            gateway=via,
            scope=scope,
            source=source,
            protocol=RTPROT_BOOT,
            exclusive=True,
        )


def _route_to_pod(host: Rtnl, port: Link, ip: Mapping[str, Any]) -> None:
    """Give the node's side the gateway's address, and the node a route to the pod's. Raises NetlinkError.

    The route may exist, over another interface: then that stays.
    """
    host.add_address(port.index, ip["gateway"], detect_duplicates=True)
    address = ip["address"].partition("/")[0]
    try:
        host.add_route(port.index, address, scope=RT_SCOPE_HOST, protocol=RTPROT_BOOT, exclusive=True)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
