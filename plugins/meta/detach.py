"""DEL of one attachment, also where its network namespace is gone, or the node was restarted since."""

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

# Plugins that do nothing where they are given no network namespace: they do not have their IPAM called either.
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
    """Have the network's plugins undo it, in the namespace at the path `netns`, "" where that is gone.

    Of an attachment of an earlier boot only what lies on disk is given back. Plugins of this process know by the
    journal that no device is theirs. An executed one does not: a device that it works on may be another pod's by
    now, so of such a plugin only the IPAM plugin is called. Raises CniError; all are attempted.
    """
    network, request = delegate.network(), delegate.request(call, netns=netns)
    left_alone = [] if same_boot else [p for p in network.plugins[:1] if _has_device(p) and chain.executes(p)]
    parts = [replace(network, plugins=[plugin for plugin in network.plugins if plugin not in left_alone])]
    for plugin in network.plugins:
        skips = plugin in left_alone or (not netns and plugin["type"] == _NEEDS_NETNS)
        if skips and chain.executes(plugin) and (ipam := _ipam(plugin)):
            # IPAM plugins are given the whole configuration of the plugin that calls them.
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
    """The IPAM plugin that the plugin has called, "" where it has none called."""
    ipam = plugin.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) and plugin["type"] in GIVES_TO_IPAM else ""
    return kind if isinstance(kind, str) else ""
