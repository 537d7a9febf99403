"""macvlan: an interface with a MAC of its own above one of the node's or the pod's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wirespeed import structs
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.kernel.netlink import virtual
from wirespeed.plugins.reference import child, conf
from wirespeed.structs import Words

_Packets = Annotated[int, Meta(ge=0, le=2**32 - 1), Words("an integer from 0 to 4294967295", "packets")]


@structs.prepared
class Keys(child.Keys, kw_only=True, frozen=True):
    """The plugin's keys."""

    mode: Literal["", "bridge", "private", "vepa", "passthru"] = ""
    mac: str = ""
    broadcast_queue: _Packets = msgspec.field(name="bcqueuelen", default=0)


class Macvlan(child.ChildPlugin):
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    kind = virtual.MACVLAN

    def add(self, request: Request) -> Result:
        keys = conf.read(request, Keys)
        mac = conf.requested_mac(request, keys.mac, in_args=False)
        data = virtual.macvlan_data(keys.mode or "bridge", broadcast_queue=keys.broadcast_queue)
        return self.attach(request, keys, data, mac=mac)

    def check(self, request: Request) -> None:
        keys = conf.read(request, Keys)
        mode = keys.mode or "bridge"
        self.compare_mode(request, keys, mode, virtual.MACVLAN_MODES, virtual.IFLA_MACVLAN_MODE)
