"""The annotation key default-route: moves the pod's default routes to one attachment.

DEL needs no step to undo this: the kernel removes routes with their interface.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from wirespeed.cni.address import parse_prefix
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Result
from wirespeed.kernel import netns, routes
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.kernel.routes import DefaultRoute

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_EVERYWHERE = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_MAIN = 254


def give(ns: NetNs, ifname: str, gateways: Sequence[str], results: Mapping[str, Result]) -> dict[str, Result]:
    """Replace the namespace's default routes by routes through `ifname`, for each address family of `gateways`.

    Without gateways, `ifname` keeps the default routes that its plugins made, and all others of these families are
    removed. `results` has the result of each attachment by interface; return those that changed, with their new
    routes. Raises CniError(INTERFACE) if the kernel refuses.
    """
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
        if link is None:
            raise CniError(Code.INTERFACE, f"default route: the pod has no network interface {ifname}")
        wanted = {_family(gateway): gateway for gateway in gateways}
        families = list(wanted) or _own_families(ns, link.index, ifname)
        for family in families:
            _clear(ns, family, keep=None if wanted else link.index)
            if family in wanted:
                _add(inside, link.index, family, wanted[family], ifname)
    wrong = fault(ns, ifname, gateways)
    if wrong:
        raise CniError(Code.INTERFACE, f"default route: {wrong}")
    return _with_default_routes(ifname, wanted, families, results)


def fault(ns: NetNs, ifname: str, gateways: Sequence[str]) -> str:
    """Return how the namespace's default routes differ from what `give` makes, "" if they do not."""
    with Rtnl(netns_fd=ns.fd) as inside:
        link = inside.link(ifname)
    if link is None:
        return f"the pod has no network interface {ifname}"
    wanted = {_family(gateway): gateway for gateway in gateways}
    own = 0
    for family in wanted or _FAMILIES:
        found = _default_routes(ns, family)
        mine = [route for route in found if route.indexes == {link.index}]
        own += len(mine)
        if family in wanted and [route.gateway for route in mine] != [wanted[family]]:
            return f"expected the {_NAMES[family]} default route by {ifname} to go to {wanted[family]}"
        if mine and len(mine) < len(found):
            return f"expected the {_NAMES[family]} default route by {ifname} to be the only one"
    return "" if own else f"expected a default route by {ifname}"


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
        raise CniError(
            Code.INTERFACE,
            f'default route: the plugins made none by {ifname}: expected a gateway in the key "default-route"',
        )
    return found


def _clear(ns: NetNs, family: socket.AddressFamily, *, keep: int | None) -> None:
    """Remove the default routes of a family, except those through the interface `keep` only."""
    for route in _default_routes(ns, family):
        if keep is None or route.indexes != {keep}:
            try:
                netns.inside(ns.fd, lambda route=route: routes.remove_route(route))  # type: ignore[misc]
            except OSError as error:
                raise CniError(
                    Code.INTERFACE, f"default route: removing the {_NAMES[family]} one: {error.strerror}"
                ) from error


def _add(inside: Rtnl, index: int, family: socket.AddressFamily, gateway: str, ifname: str) -> None:
    try:
        inside.add_route(index, _EVERYWHERE[family], gateway=gateway)
    except NetlinkError as error:
        raise CniError(Code.INTERFACE, f"default route: via {gateway} on {ifname}: {error.strerror}") from error


def _with_default_routes(
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
            kept += [{"dst": _EVERYWHERE[family], "gw": gateway} for family, gateway in wanted.items()]
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
        and route.get("table", _MAIN) in (0, _MAIN)
    )
