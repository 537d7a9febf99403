"""ipvlan: an interface above one of the node's or the pod's, with that one's MAC.

After another plugin in a chain, its master is by default the one interface of that plugin's result, and without
IPAM it gets the addresses of that result.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from wirespeed import structs
from wirespeed.cni import result as results
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink import virtual
from wirespeed.plugins.reference import child, conf


@structs.prepared
class Keys(child.Keys, kw_only=True, frozen=True):
    """The plugin's keys."""

    mode: Literal["", "l2", "l3", "l3s"] = ""


class Ipvlan(child.ChildPlugin):
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    kind = virtual.IPVLAN
    limits_mtu = False

    def add(self, request: Request) -> Result:
        keys = conf.read(request, Keys)
        previous = request.config.get("prevResult")
        given = None
        if previous is not None:
            result = results.read(previous, request.version)
            keys = msgspec.structs.replace(keys, master=keys.master or _only_interface(result))
            given = result if result["ips"] and not keys.ipam.get("type") else None
        if given is None:
            keys.check_ipam()
        return self.attach(request, keys, virtual.ipvlan_data(keys.mode or "l2"), given=given)

    def check(self, request: Request) -> None:
        keys = conf.read(request, Keys)
        mode = keys.mode or "l2"
        self.compare_mode(request, keys, mode, virtual.IPVLAN_MODES, virtual.IFLA_IPVLAN_MODE)


def _only_interface(previous: Result) -> str:
    """Return the name of the one interface of a result. Raises Error(INVALID_DATA)."""
    names = [each["name"] for each in previous["interfaces"]]
    if len(names) != 1:
        expected = 'one interface, as "master" is not set'
        raise Error(Kind.INVALID_DATA, where="prevResult", expected=expected, got=names)
    return str(names[0])
