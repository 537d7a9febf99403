"""Checks before any change of the node: plugins, capabilities, default routes, interface names."""

from __future__ import annotations

from collections.abc import Sequence

from wirespeed import errors, structs
from wirespeed.cni.chain import Chain, Network
from wirespeed.errors import Error, Kind, Thing
from wirespeed.ipam import check_usable
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.node import ALIASES, PLUGINS
from wirespeed.plugins.meta.delegate import Delegate

# Executed plugins that delegate to the IPAM plugin of `ipam.type` with their whole configuration, as the
# reference plugins do.
DELEGATES_TO_IPAM = {
    "bridge",
    "dummy",
    "host-device",
    "ib-sriov",
    "ipoib",
    "ipvlan",
    "macvlan",
    "ovs",
    "ptp",
    "vlan",
}
# Capabilities that have another name in the networks annotation.
_ANNOTATION_KEYS = {"infinibandGUID": "infiniband-guid"}
# IPAM plugins of which every version reads requested addresses from CNI_ARGS.
_READS_IP_ARGUMENT = ("host-local", "static")


def check(delegates: Sequence[Delegate], chain: Chain, *, offline: bool = False) -> None:
    """Refuse delegates that cannot be attached. Raises Error that names the network. With `offline` (a check on
    another machine than the pod's node), plugin executables are not looked for.
    """
    for delegate in delegates:
        with errors.within(delegate.where):
            _check(delegate, chain, offline=offline)
    _check_default_route(delegates)


def check_interfaces(delegates: Sequence[Delegate], ns: NetNs) -> None:
    """Refuse interface names that already exist in the namespace. Raises Error(INTERFACE)."""
    existing = interface_names(ns)
    for delegate in delegates:
        if delegate.ifname in existing:
            raise Error(
                Kind.INTERFACE,
                f"network namespace {ns.path} has an interface {delegate.ifname} already",
                where=delegate.where,
            )


def interface_names(ns: NetNs) -> set[str]:
    """Return the names and alternative names of the interfaces in the namespace."""
    with Rtnl(netns_fd=ns.fd) as inside:
        return {name for link in inside.links() for name in (link.name, *link.altnames)}


def needs_ip_argument(chain: Chain, network: Network) -> bool:
    """Whether requested addresses reach the network's IPAM plugin only by CNI_ARGS IP.

    The annotation's specification requires the capability "ips". Networks written for Multus often lack it, yet
    requested addresses work there: Multus always sets CNI_ARGS IP, which static and host-local read. With the
    capability, IP must not be set as well, because static would add both.
    """
    if has_capability(chain, network, "ips"):
        return False
    ipams = [plugin.get("ipam") for plugin in network.plugins]
    return any(isinstance(ipam, dict) and ipam.get("type") in _READS_IP_ARGUMENT for ipam in ipams)


def has_capability(chain: Chain, network: Network, capability: str) -> bool:
    """Whether a plugin of the network gets the value of that capability."""
    return any(capability in chain.capabilities(plugin) for plugin in network.plugins)


def _check(delegate: Delegate, chain: Chain, *, offline: bool) -> None:
    network = delegate.network()
    for kind in network.kinds:
        if ALIASES.get(kind, kind) == "meta":
            raise Error(
                Kind.INVALID_CONFIG,
                "a delegate must not be the meta-plugin itself: it would recurse",
                where=Thing("plugin", kind),
            )
    if not offline:
        chain.check_plugins(network, delegate.path)
        _check_ipam(network, chain, delegate.path)
    for capability in delegate.asked:
        if not has_capability(chain, network, capability) and not (
            capability == "ips" and needs_ip_argument(chain, network)
        ):
            raise Error(
                Kind.POLICY,
                "no plugin of the network has the capability for it",
                key=_ANNOTATION_KEYS.get(capability, capability),
                expected=f'"capabilities": {{"{capability}": true}} in the configuration of one, or '
                f'"lenientCapabilities": ["{capability}"] in the meta-plugin\'s (autoconf.meta of agent.yaml)',
            )


def _check_ipam(network: Network, chain: Chain, path: Sequence[str]) -> None:
    """Refuse an IPAM plugin that is not installed: DEL needs it too, so a failed ADD could not be undone."""
    for plugin in network.plugins:
        kind = plugin["type"]
        if kind in DELEGATES_TO_IPAM or ALIASES.get(kind, kind) in PLUGINS:
            with errors.within(Thing("plugin", kind)):
                check_usable(plugin, path, executed=chain.executes(plugin, path))


def _check_default_route(delegates: Sequence[Delegate]) -> None:
    """Only one network may have the key (multi-net-spec v1.3, 4.1.2.1.9), with one gateway per address family."""
    requesting = [delegate for delegate in delegates if delegate.default_route is not None]
    if len(requesting) > 1:
        all_of_them = [delegate.where for delegate in requesting]
        raise Error(
            Kind.INVALID_CONFIG,
            f"only one network may have it, but {' and '.join(map(str, all_of_them))} have it",
            key="default-route",
            about=all_of_them,
        )
    for delegate in requesting:
        families = [":" in gateway for gateway in delegate.default_route or ()]
        if len(families) != len(set(families)):
            gateways = list(delegate.default_route or ())
            raise structs.wrong("default-route", "one gateway of each address family", gateways).within(
                delegate.where
            )
