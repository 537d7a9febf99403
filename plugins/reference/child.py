"""What macvlan, ipvlan and vlan have in common: an interface in the pod above another one, its master."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import msgspec

from wirespeed import errors
from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.ipam import Ipam
from wirespeed.kernel import routes
from wirespeed.kernel.netlink.codec import number
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.link import Link
from wirespeed.plugins.reference import conf
from wirespeed.plugins.reference import pod as pods
from wirespeed.plugins.reference.pod import Sides


class Keys(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """The keys that the three plugins share."""

    master: str = ""
    mtu: conf.Mtu = 0
    link_in_container: bool = False
    ipam: dict[str, Any] = {}

    def check_ipam(self) -> None:
        """Raise Error(INVALID_CONFIG) if there is no IPAM."""
        if not self.ipam.get("type"):
            raise Error(Kind.INVALID_CONFIG, key="ipam.type", missing=True, expected="the name of an IPAM plugin")


class ChildPlugin:
    """A plugin that creates a child of a master; the plugins differ in the attributes of its kind."""

    kind: ClassVar[str]
    announces = True  # whether the pod tells the neighbours of the master its addresses
    limits_mtu = True  # whether an MTU above the master's is refused
    deletes_interface: Literal[True] = True  # see `wirespeed.cni.plugin.DeletesInterface`

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def delete(self, request: Request) -> None:
        errors.run_all([lambda: pods.delete_interface(request), lambda: self._ipam.delete(request)])

    def gc(self, request: Request) -> None:
        self._ipam.gc(request)

    def status(self, request: Request) -> None:
        self._ipam.status(request)

    def attach(
        self, request: Request, keys: Keys, data: bytes, *, mac: str = "", given: Result | None = None
    ) -> Result:
        """Create the child with the attributes `data` of its kind, and a MAC ("": the kernel's default).

        It gets the addresses and routes of the result `given`, else those of IPAM, if there is one. Raises
        Error(INVALID_CONFIG, INTERFACE, ADDRESS).
        """
        addressed = given is not None or bool(keys.ipam.get("type"))
        dns = conf.dns(request)
        with pods.opened(request) as sides:
            master = self._master(sides, keys)
            attributes: dict[str, Any] = {
                "data": data,
                "mac": mac,
                "mtu": keys.mtu,
                "lower": master.index,
                "up": not addressed,
            }
            with pods.interface_errors(f"interface {request.ifname} above {master.name}"):
                link = _create(sides, request.ifname, self.kind, in_pod=keys.link_in_container, **attributes)
            try:
                result = self._addressed(request, sides, link, given) if addressed else results.empty()
            except BaseException:
                release = [lambda: self._ipam.delete(request, attached=False)]
                errors.run_all([lambda: sides.pod.delete_link(link.index), *release])
                raise
        result["interfaces"] = [{"name": link.name, "mac": link.mac, "sandbox": request.netns}]
        result["dns"] = dns
        return result

    def _addressed(self, request: Request, sides: Sides, link: Link, given: Result | None) -> Result:
        found = pods.allocate(request, self._ipam) if given is None else given
        ips = [{**ip, "interface": 0} for ip in found["ips"]]
        result = {**results.empty(), "ips": ips, "routes": found["routes"]}
        sysctls = (f"net/ipv4/conf/{link.name}/arp_notify", f"net/ipv6/conf/{link.name}/ndisc_notify")
        pods.configure(sides, link, result, dict.fromkeys(sysctls, "1") if self.announces else {})
        return result

    def compare(self, request: Request, keys: Keys, differences: Callable[[Link], Iterable[str]]) -> None:
        """Check that the child and, if it is named, its master are as ADD left them; `differences` are its kind's.

        Raises Error(DRIFT, INTERFACE, INVALID_CONFIG).
        """
        self._ipam.check(request)
        with pods.opened(request) as sides:
            if keys.master:
                self._master(sides, keys)
            pods.raise_drift(pods.drift(request, sides.pod, self.kind, differences))

    def compare_mode(
        self, request: Request, keys: Keys, mode: str, number_of: Mapping[str, int], kind: int
    ) -> None:
        """Like `compare`, for a child whose attribute `kind` (IFLA_*) is the number of its mode."""

        def differences(link: Link) -> list[str]:
            found = number(link.data.get(kind))
            return [] if found == number_of[mode] else [f"{link.name} is not in mode {mode}"]

        self.compare(request, keys, differences)

    def _master(self, sides: Sides, keys: Keys) -> Link:
        """Return the interface `master`, by default that of the default route, on the node or in the pod."""
        rtnl = sides.pod if keys.link_in_container else sides.host
        name = keys.master or routes.default_route_index(rtnl)
        if name is None:
            what = "none is named, and there is no default route over one interface"
            raise Error(Kind.INTERFACE, what, where="master", hint='set "master"')
        found = rtnl.link(name)
        if found is None:
            raise Error(Kind.INTERFACE, "no such interface", where=f"master {name}")
        if self.limits_mtu and keys.mtu > found.mtu:
            expected = f"at most {found.mtu}, the MTU of master {found.name}"
            raise Error(Kind.INVALID_CONFIG, key="mtu", expected=expected, got=keys.mtu)
        return found


def _create(sides: Sides, ifname: str, kind: str, *, in_pod: bool, up: bool, **attributes: Any) -> Link:
    """Create a child in the pod, and return it; `in_pod`: its master is in the pod. Raises NetlinkError.

    Before Linux 6.15, the kernel refuses a name that is taken in the namespace of the socket, also if it creates
    the interface in another one. Then, the interface is created with a random name, and renamed in the pod.
    """
    if in_pod:
        sides.pod.create_link(ifname, kind, up=up, **attributes)
        return pods.find(sides.pod, ifname)
    try:
        sides.host.create_link(ifname, kind, netns_fd=sides.ns.fd, up=up, **attributes)
        return pods.find(sides.pod, ifname)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
    name = pods.random_name()
    sides.host.create_link(name, kind, netns_fd=sides.ns.fd, **attributes)
    link = pods.find(sides.pod, name)
    try:
        sides.pod.set_link(link.index, name=ifname, up=up or None)
    except BaseException:
        errors.run_all([lambda: sides.pod.delete_link(link.index)])
        raise
    return replace(link, name=ifname)
