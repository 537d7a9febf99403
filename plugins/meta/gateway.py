"""The annotation key default-route: moves the pod's default routes to one attachment.

DEL needs no step to undo this: the kernel removes routes with their interface.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from wirespeed.cni.address import parse_prefix
from wirespeed.cni.plugin import Result
from wirespeed.errors import Error, Kind
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.kernel.routes import DefaultRoute

WHERE = "default route"  # the place of errors

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_DEFAULT_DESTINATION = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_MAIN_TABLE = 254


def replace_default_routes(
    ns: NetNs, ifname: str, gateways: Sequence[str], results: Mapping[str, Result]
) -> dict[str, Result]:
    """Replace the namespace's default routes by routes through `ifname`, for each address family of `gateways`.

    Without gateways, `ifname` keeps the default routes that its plugins made, and all others of these families are
    removed. `results` has the result of each attachment by interface; return those that changed, with their new
    routes. Raises Error(INTERFACE) if the kernel refuses.
    """
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
        if link is None:
            raise Error(Kind.INTERFACE, f"the pod has no network interface {ifname}", where=WHERE)
        wanted = {_family(gateway): gateway for gateway in gateways}
        families = list(wanted) or _own_families(ns, link.index, ifname)
        for family in families:
            _clear(ns, family, keep=None if wanted else link.index)
            if family in wanted:
                _add(inside, link.index, family, wanted[family], ifname)
    if wrong := fault(ns, ifname, gateways):
        raise Error(Kind.INTERFACE, wrong, where=WHERE)
    return _changed_results(ifname, wanted, families, results)


def fault(ns: NetNs, ifname: str, gateways: Sequence[str]) -> str:
    """Return how the default routes differ from those of `replace_default_routes`, "" if they do not."""
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
    if link is None:
        return f"the pod has no network interface {ifname}"
    wanted = {_family(gateway): gateway for gateway in gateways}
    count = 0
    for family in wanted or _FAMILIES:
        found = _default_routes(ns, family)
        through_ifname = [route for route in found if route.indexes == {link.index}]
        count += len(through_ifname)
        if family in wanted and [route.gateway for route in through_ifname] != [wanted[family]]:
            return f"expected the {_NAMES[family]} default route through {ifname} to go to {wanted[family]}"
        if through_ifname and len(through_ifname) < len(found):
            return f"expected the {_NAMES[family]} default route through {ifname} to be the only one"
    return "" if count else f"expected a default route through {ifname}"


def _family(gateway: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in gateway else socket.AF_INET


def _default_routes(ns: NetNs, family: socket.AddressFamily) -> list[DefaultRoute]:
    return netns.inside(ns.fd, lambda: routes.default_routes(family))


def _own_families(ns: NetNs, index: int, ifname: str) -> list[socket.AddressFamily]:
    """Return the address families in which the interface has a default route."""
    found = [
        family for family in _FAMILIES if any(route.indexes == {index} for route in _default_routes(ns, family))
    ]
    if not found:
        raise Error(
            Kind.INTERFACE,
            f"no plugin created a default route through {ifname}",
            key="default-route",
            expected="a gateway",
        )
    return found


def _clear(ns: NetNs, family: socket.AddressFamily, *, keep: int | None) -> None:
    """Remove the default routes of a family, except those through the interface `keep` only."""
    for route in _default_routes(ns, family):
        if keep is None or route.indexes != {keep}:
            try:
                netns.inside(ns.fd, partial(routes.remove_route, route))
            except OSError as error:
                text = f"removing the {_NAMES[family]} one: {error.strerror}"
                raise Error(Kind.INTERFACE, text, where=WHERE) from error


def _add(inside: Rtnl, index: int, family: socket.AddressFamily, gateway: str, ifname: str) -> None:
    try:
        inside.add_route(index, _DEFAULT_DESTINATION[family], gateway=gateway)
    except NetlinkError as error:
        raise Error(Kind.INTERFACE, f"via {gateway} on {ifname}: {error.strerror}", where=WHERE) from error


def _changed_results(
    ifname: str,
    wanted: Mapping[socket.AddressFamily, str],
    families: Sequence[socket.AddressFamily],
    results: Mapping[str, Result],
) -> dict[str, Result]:
    """Return the results whose routes changed, with the current default routes."""
    changed = {}
    for name, result in results.items():
        kept = [
            route for route in result["routes"] if not (_is_default(route, families) and (name != ifname or wanted))
        ]
        if name == ifname:
            kept += [{"dst": _DEFAULT_DESTINATION[family], "gw": gateway} for family, gateway in wanted.items()]
        if kept != result["routes"]:
            changed[name] = {**result, "routes": kept}
    return changed


def _is_default(route: Mapping[str, Any], families: Sequence[socket.AddressFamily]) -> bool:
    """Whether it is a default route of one of the families in the main table."""
    prefix = parse_prefix(route["dst"])
    return (
        prefix is not None
        and prefix.length == 0
        and _family(route["dst"]) in families
        and route.get("table", _MAIN_TABLE) in (0, _MAIN_TABLE)
    )
