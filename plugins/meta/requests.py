"""Compares what a pod asked of a network (MAC, addresses, capabilities) with what it got."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from wirespeed.cni.plugin import Result
from wirespeed.plugins.meta.delegate import Delegate

_BY_ARGUMENT = ("mac", "ips")  # passed in CNI_ARGS if no plugin has the capability


def unmet_requests(delegate: Delegate, result: Result) -> Iterator[str]:
    """Yield one message for each request of the pod that its attachment does not meet.

    A plugin may ignore CNI_ARGS, and an executed plugin may ignore a capability that it declares. The MAC is not
    compared if the result has none for the pod's interface (as for a device that is driven from userspace).
    """
    given, interfaces = delegate.runtime_config, result.get("interfaces") or ()
    macs = [each["mac"].lower() for each in interfaces if each.get("sandbox") and each.get("mac")]
    addresses = [_without_length(each["address"]) for each in result.get("ips") or ()]
    for key, asked, got in (
        ("mac", [given["mac"]] if macs and "mac" in given else [], macs),
        ("ips", [_without_length(each) for each in given.get("ips") or ()], addresses),
    ):
        requested = key in delegate.asked or key in delegate.lenient
        missing = [each for each in asked if requested and each not in got]
        if missing:
            why = f': no plugin of the network has the capability "{key}"' if key in delegate.lenient else ""
            yield f'{delegate.where}: key "{key}": requested {_joined(missing)}, got {_joined(got)}{why}'
    for key in delegate.lenient:
        if key not in _BY_ARGUMENT:
            yield f'{delegate.where}: the pod asks for "{key}", and no plugin of it has that capability: no effect'


def _without_length(address: str) -> str:
    """The address without its prefix length, in canonical form: IPv6 can be written in several ways."""
    return str(ipaddress.ip_interface(address).ip)


def _joined(values: list[str]) -> str:
    return ", ".join(values) or "none"
