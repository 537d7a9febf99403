"""Checks before any change of the node: plugins, capabilities, default routes, interface names."""

from __future__ import annotations

from collections.abc import Sequence

from wirespeed.cni.chain import Chain, Network
from wirespeed.cni.errors import CniError, Code
from wirespeed.ipam import check_usable
from wirespeed.kernel.netlink.rtnl import Rtnl
from wirespeed.kernel.netns import NetNs
from wirespeed.node import ALIASES, PLUGINS
from wirespeed.plugins.meta.delegate import Delegate

# Executed plugins that delegate to the IPAM plugin of `ipam.type` with their whole configuration, as the
# reference plugins do.
GIVES_TO_IPAM = {"bridge", "dummy", "host-device", "ib-sriov", "ipoib", "ipvlan", "macvlan", "ovs", "ptp", "vlan"}
# IPAM plugins of which every version reads requested addresses from CNI_ARGS.
_READS_IP = ("host-local", "static")


def check(delegates: Sequence[Delegate], chain: Chain, *, elsewhere: bool = False) -> None:
    """Refuse delegates that cannot be attached. Raises CniError that names the network.

    With `elsewhere` (a check on another machine than the pod's node), plugin executables are not looked for.
    """
    for delegate in delegates:
        try:
            _check(delegate, chain, elsewhere=elsewhere)
        except CniError as error:
            raise error.prefixed(delegate.where) from error
    _check_default_route(delegates)


def check_interfaces(delegates: Sequence[Delegate], ns: NetNs) -> None:
    """Refuse interface names that already exist in the namespace. Raises CniError(INTERFACE)."""
    with Rtnl(netns_fd=ns.fd) as inside:
        there = {name for link in inside.links() for name in (link.name, *link.altnames)}
    for delegate in delegates:
        if delegate.ifname in there:
            raise CniError(
                Code.INTERFACE,
                f"{delegate.where}: network namespace {ns.path} has an interface {delegate.ifname} already",
            )


def needs_ip_argument(chain: Chain, network: Network) -> bool:
    """Whether requested addresses reach the network's IPAM plugin only by CNI_ARGS IP.

    The annotation's specification requires the capability "ips". Networks written for Multus often lack it, yet
    requested addresses work there: Multus always sets CNI_ARGS IP, which static and host-local read. With the
    capability, IP must not be set as well, because static would add both.
    """
    if takes(chain, network, "ips"):
        return False
    ipams = [plugin.get("ipam") for plugin in network.plugins]
    return any(isinstance(ipam, dict) and ipam.get("type") in _READS_IP for ipam in ipams)


def takes(chain: Chain, network: Network, capability: str) -> bool:
    """Whether a plugin of the network gets the value of that capability."""
    return any(capability in chain.capabilities(plugin) for plugin in network.plugins)


def _check(delegate: Delegate, chain: Chain, *, elsewhere: bool) -> None:
    network = delegate.network()
    for kind in network.kinds:
        if ALIASES.get(kind, kind) == "meta":
            raise CniError(
                Code.INVALID_CONFIG, f"plugin {kind}: a network of the meta-plugin's own type never ends"
            )
    if not elsewhere:
        chain.check_plugins(network, delegate.path)
        _check_ipam(network, delegate.path)
    for capability in delegate.asked:
        if not takes(chain, network, capability) and not (
            capability == "ips" and needs_ip_argument(chain, network)
        ):
            raise CniError(
                Code.POLICY,
                f'the pod asks for "{capability}", and no plugin of the network takes it: '
                f'expected "capabilities": {{"{capability}": true}} in the configuration of one, or '
                f'"lenientCapabilities": ["{capability}"] in the meta-plugin\'s (autoconf.meta of agent.yaml)',
            )


def _check_ipam(network: Network, path: Sequence[str]) -> None:
    """Refuse an IPAM plugin that is not installed: DEL needs it too, so a failed ADD could not be undone."""
    for plugin in network.plugins:
        kind = plugin["type"]
        executed = kind in GIVES_TO_IPAM
        if executed or ALIASES.get(kind, kind) in PLUGINS:
            try:
                check_usable(plugin, path, executed=executed)
            except CniError as error:
                raise error.prefixed(f"plugin {kind}") from error


def _check_default_route(delegates: Sequence[Delegate]) -> None:
    """Only one network may have the key (multi-net-spec v1.3, 4.1.2.1.9), with one gateway per address family."""
    asking = [delegate for delegate in delegates if delegate.default_route is not None]
    if len(asking) > 1:
        both = " and ".join(delegate.where for delegate in asking)
        raise CniError(Code.INVALID_CONFIG, f'{both}: only one network may have the key "default-route"')
    for delegate in asking:
        families = [":" in gateway for gateway in delegate.default_route or ()]
        if len(families) != len(set(families)):
            raise CniError(
                Code.INVALID_CONFIG,
                f'{delegate.where}: key "default-route": expected one gateway of each address family, '
                f"got {', '.join(delegate.default_route or ())}",
            )
