"""Assigns the devices that a pod was given by the kubelet to the pod's attachments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from wirespeed.cni.chain import Network
from wirespeed.cni.errors import CniError, Code

# Plugins that cannot work without a device.
_NEEDS = frozenset({"sriov", "wirespeed-sriov", "ib-sriov", "accelerated-bridge", "afxdp"})
# Plugins that never use a device: the reference plugins except host-device.
_USES_NONE = frozenset(
    {"bridge", "dummy", "ipvlan", "loopback", "macvlan", "ptp", "tap", "vlan"}
    | {"bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf"}
)
_OF_HOST_DEVICE = ("device", "hwaddr", "kernelpath", "pciBusID")  # each of them names the interface to move


class DeviceUse(Enum):
    """Whether the plugins of a network use a device that the pod was given."""

    NONE = "none"
    POSSIBLE = "possible"  # unknown plugins, which may use one
    NEEDED = "needed"


def device_use(network: Network) -> DeviceUse:
    """Return whether the plugins of a network use a device."""
    if any(_needs_device(plugin) for plugin in network.plugins):
        return DeviceUse.NEEDED
    return DeviceUse.NONE if _USES_NONE.issuperset(network.kinds) else DeviceUse.POSSIBLE


def _needs_device(plugin: Mapping[str, Any]) -> bool:
    if plugin["type"] == "host-device":
        return not any(plugin.get(key) for key in _OF_HOST_DEVICE)
    return plugin["type"] in _NEEDS


class Devices:
    """Hands out each device of a pod once, in a deterministic order.

    `lookup` returns the device ids by resource name; it is called when the first device is needed. `pod` is the
    pod's name in messages. `taken` are the (resource, device) pairs that the pod has attached already.
    """

    def __init__(
        self, lookup: Callable[[], dict[str, list[str]]], pod: str, taken: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._lookup = lookup
        self._pod = pod
        self._free: dict[str, list[str]] | None = None
        self._given: dict[str, list[str]] = {}
        for resource, device in taken:
            self._given.setdefault(resource, []).append(device)

    def _left(self) -> dict[str, list[str]]:
        if self._free is None:
            given = {device for devices in self._given.values() for device in devices}
            self._free = {resource: sorted(set(ids) - given) for resource, ids in self._lookup().items()}
        return self._free

    def has(self, resource: str) -> bool:
        """Whether a device of the resource is left. Raises what `lookup` raises."""
        return bool(self._left().get(resource))

    def had(self, resource: str) -> bool:
        """Whether a device of the resource has been handed out."""
        return bool(self._given.get(resource))

    def take(self, resource: str) -> str:
        """Take the first device of a resource that is left.

        Raises CniError(DEVICE) if none is left, or what `lookup` raises.
        """
        left = self._left().get(resource)
        if not left:
            given = self._given.get(resource, ())
            had = f"all {len(given)} are attached already" if given else "it was given none"
            raise CniError(
                Code.DEVICE,
                f"no device of resource {resource} is left for pod {self._pod}: {had}; "
                "each network that uses the resource needs one in the limits of a container",
            )
        return self._hand_out(resource, left[0])

    def take_id(self, device: str, resource: str = "") -> str:
        """Take this device, which must be one of the pod's (of `resource`, if given); return its resource.

        Raises CniError(POLICY) if it is not the pod's or is attached already, or what `lookup` raises.
        """
        for name, ids in self._left().items():
            if device in ids and resource in ("", name):
                self._hand_out(name, device)
                return name
        attached = any(device in ids for ids in self._given.values())
        raise CniError(
            Code.POLICY,
            f"device {device} "
            + (
                "is asked for twice"
                if attached
                else f"was not given to pod {self._pod}"
                + (f" as resource {resource}" if resource else " by the kubelet")
            ),
        )

    def _hand_out(self, resource: str, device: str) -> str:
        """Hand out the device and remove it from every resource that lists it."""
        for ids in self._left().values():
            if device in ids:
                ids.remove(device)
        self._given.setdefault(resource, []).append(device)
        return device
