"""DEL of one attachment, even if its network namespace is gone or the node was rebooted since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wirespeed.cni.chain import Chain
from wirespeed.cni.errors import CniError, combined
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.plugins.meta.checks import GIVES_TO_IPAM
from wirespeed.plugins.meta.delegate import Delegate

# Without a netns, this plugin's DEL does nothing and does not call its IPAM plugin either.
_NEEDS_NETNS = "host-device"


def detach(
    chain: Chain,
    delegate: Delegate,
    call: Request,
    *,
    netns: str,
    result: Result | None = None,
    same_boot: bool = True,
) -> None:
    """Call DEL of the network's plugins with the namespace at path `netns`, "" if it is gone.

    After a reboot only state on disk (IPAM leases) must be released, because the device may belong to another pod
    by now. In-process plugins know this: the journal has no device claim. An executed plugin does not, so if its
    configuration has a device, only its IPAM plugin is called. All are attempted; raises CniError.
    """
    network, request = delegate.network(), delegate.request(call, netns=netns)
    left_alone = [] if same_boot else [p for p in network.plugins[:1] if _has_device(p) and chain.executes(p)]
    parts = [replace(network, plugins=[plugin for plugin in network.plugins if plugin not in left_alone])]
    for plugin in network.plugins:
        skips = plugin in left_alone or (not netns and plugin["type"] == _NEEDS_NETNS)
        if skips and chain.executes(plugin) and (ipam := _ipam(plugin)):
            # An IPAM plugin gets the whole configuration of the plugin that calls it.
            parts.append(replace(network, plugins=[{**plugin, "type": ipam}]))
    errors = []
    for part in parts:
        try:
            chain.delete(part, request, delegate.runtime_config, result)
        except CniError as error:
            errors.append(error)
    if errors:
        raise combined(errors)


def _has_device(plugin: Mapping[str, Any]) -> bool:
    return bool(plugin.get("deviceID") or plugin.get("pciBusID"))


def _ipam(plugin: Mapping[str, Any]) -> str:
    """Return the type of the IPAM plugin that the plugin delegates to, "" for none."""
    ipam = plugin.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) and plugin["type"] in GIVES_TO_IPAM else ""
    return kind if isinstance(kind, str) else ""
