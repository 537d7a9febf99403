"""What a pod asked of a network, held against what it got."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from wirespeed.cni.plugin import Result
from wirespeed.plugins.meta.delegate import Delegate

_BY_ARGUMENT = ("mac", "ips")  # what CNI_ARGS carry where no plugin has the capability


def unmet(delegate: Delegate, result: Result) -> Iterator[str]:
    """What the pod asked for and its attachment has not, one line each.

    A plugin may pass over CNI_ARGS, and an executed one over what it declares. A result that tells no MAC of the
    pod's interface (that of a device that an application drives) shows nothing.
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
    """The MAC asked for, if the result tells of one, and those of the interfaces inside the pod."""
    inside = (each for each in result.get("interfaces") or () if each.get("sandbox"))
    got = [each["mac"].lower() for each in inside if each.get("mac")]
    return ([delegate.runtime_config["mac"]] if got and "mac" in delegate.runtime_config else []), got


def _addresses(delegate: Delegate, result: Result) -> tuple[list[str], list[str]]:
    """The addresses asked for, and those of the result, without prefix lengths."""
    got = [each["address"] for each in result.get("ips") or ()]
    return [_bare(each) for each in delegate.runtime_config.get("ips") or ()], [_bare(each) for each in got]


def _bare(address: str) -> str:
    """Both sides may write an IPv6 address in their own way."""
    return str(ipaddress.ip_interface(address).ip)


def _listed(values: list[str]) -> str:
    return ", ".join(values) or "none"
