"""vlan: an interface in an 802.1Q VLAN of one of the node's or the pod's."""

from __future__ import annotations

from wirespeed import structs
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind
from wirespeed.kernel.netlink import virtual
from wirespeed.kernel.netlink.codec import number
from wirespeed.kernel.netlink.link import Link
from wirespeed.plugins.reference import child, conf


@structs.prepared
class Keys(child.Keys, kw_only=True, frozen=True, rename="camel"):
    """The plugin's keys; `master` and `ipam` are required."""

    vlan_id: conf.Vlan = 0


class Vlan(child.ChildPlugin):
    """The plugin (`wirespeed.cni.plugin.Plugin`)."""

    kind = virtual.VLAN
    announces = False

    def add(self, request: Request) -> Result:
        keys = _read(request)
        return self.attach(request, keys, virtual.vlan_data(keys.vlan_id))

    def check(self, request: Request) -> None:
        keys = _read(request)

        def differences(link: Link) -> list[str]:
            found = number(link.data.get(virtual.IFLA_VLAN_ID))
            wrong = [] if found == keys.vlan_id else [f"the VLAN of {link.name} is {found}, not {keys.vlan_id}"]
            if keys.mtu not in {0, link.mtu}:
                wrong.append(f"the MTU of {link.name} is {link.mtu}, not {keys.mtu}")
            return wrong

        self.compare(request, keys, differences)

    def status(self, request: Request) -> None:
        _read(request)
        super().status(request)


def _read(request: Request) -> Keys:
    """Read the keys. Raises Error(INVALID_CONFIG)."""
    keys = conf.read(request, Keys)
    if not keys.master:
        raise Error(Kind.INVALID_CONFIG, key="master", missing=True, expected="the name of an interface")
    keys.check_ipam()
    return keys
