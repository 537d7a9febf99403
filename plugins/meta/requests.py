"""Compares what a pod asked of a network (MAC, addresses, capabilities) with what it got."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from wirespeed.cni.plugin import Result
from wirespeed.plugins.meta.delegate import Delegate

_BY_ARGUMENT = ("mac", "ips")  # passed in CNI_ARGS if no plugin has the capability


def unmet(delegate: Delegate, result: Result) -> Iterator[str]:
    """Yield one message for each request of the pod that its attachment does not meet.

    A plugin may ignore CNI_ARGS, and an executed plugin may ignore a capability that it declares. The MAC is not
    compared if the result has none for the pod's interface (as for a device that is driven from userspace).
    """
    wanted = {*delegate.asked, *delegate.lenient}
    for key, asked, got in (("mac", *_macs(delegate, result)), ("ips", *_addresses(delegate, result))):
        missing = [each for each in asked if each not in got] if key in wanted else []
        if missing:
            why = f': no plugin of the network has the capability "{key}"' if key in delegate.lenient else ""
            yield f'{delegate.where}: key "{key}": asked for {_listed(missing)}, got {_listed(got)}{why}'
    for key in delegate.lenient:
        if key not in _BY_ARGUMENT:
            yield f'{delegate.where}: the pod asks for "{key}", which no plugin of the network takes: no effect'


def _macs(delegate: Delegate, result: Result) -> tuple[list[str], list[str]]:
    """Return the requested MAC (none if the result has no MAC) and those of the interfaces inside the pod."""
    inside = (each for each in result.get("interfaces") or () if each.get("sandbox"))
    got = [each["mac"].lower() for each in inside if each.get("mac")]
    return ([delegate.runtime_config["mac"]] if got and "mac" in delegate.runtime_config else []), got


def _addresses(delegate: Delegate, result: Result) -> tuple[list[str], list[str]]:
    """Return the requested addresses and those of the result, without prefix lengths."""
    got = [each["address"] for each in result.get("ips") or ()]
    return [_bare(each) for each in delegate.runtime_config.get("ips") or ()], [_bare(each) for each in got]


def _bare(address: str) -> str:
    """The address without its prefix length, in canonical form: IPv6 can be written in several ways."""
    return str(ipaddress.ip_interface(address).ip)


def _listed(values: list[str]) -> str:
    return ", ".join(values) or "none"
