"""DEL of one attachment, even if its network namespace is gone or the node was rebooted since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from wirespeed import errors
from wirespeed.cni.chain import Chain
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.plugins.meta.checks import DELEGATES_TO_IPAM
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

    After a reboot (`same_boot` false) only state on disk (IPAM leases) must be released, because the device may
    belong to another pod by now. In-process plugins find no device claim in the journal, so they do just that. An
    executed plugin cannot know: if its configuration has a device, only its IPAM plugin is called. Continues after
    errors; raises the first, with the others appended.
    """
    network, request = delegate.network(), delegate.request(call, netns=netns)
    first = [] if same_boot else network.plugins[:1]
    skipped = [plugin for plugin in first if _has_device(plugin) and chain.executes(plugin, request.path)]
    parts = [replace(network, plugins=[plugin for plugin in network.plugins if plugin not in skipped])]
    for plugin in network.plugins:
        skips = plugin in skipped or (not netns and plugin["type"] == _NEEDS_NETNS)
        if skips and chain.executes(plugin, request.path) and (ipam := _ipam(plugin)):
            # An IPAM plugin gets the whole configuration of the plugin that calls it.
            parts.append(replace(network, plugins=[{**plugin, "type": ipam}]))
    errors.run_all(partial(chain.delete, part, request, result) for part in parts)


def _has_device(plugin: Mapping[str, Any]) -> bool:
    return bool(plugin.get("deviceID") or plugin.get("pciBusID"))


def _ipam(plugin: Mapping[str, Any]) -> str:
    """Return the type of the IPAM plugin that the plugin delegates to, "" for none."""
    ipam = plugin.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) and plugin["type"] in DELEGATES_TO_IPAM else ""
    return kind if isinstance(kind, str) else ""
