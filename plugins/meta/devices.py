"""Assigns the devices that a pod was given by the kubelet to the pod's attachments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any

from wirespeed.cni.chain import Network
from wirespeed.errors import Error, Kind, Thing

# Plugins that cannot work without a device.
_NEEDS_DEVICE = frozenset({"sriov", "wirespeed-sriov", "ib-sriov", "accelerated-bridge", "afxdp"})
# Plugins that never use a device: the reference plugins except host-device.
_WITHOUT_DEVICE = frozenset(
    {"bridge", "dummy", "ipvlan", "loopback", "macvlan", "ptp", "tap", "vlan"}
    | {"bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf"}
)
_HOST_DEVICE_KEYS = ("device", "hwaddr", "kernelpath", "pciBusID")  # each of them names the interface to move


class DeviceUse(Enum):
    """Whether the plugins of a network use a device that the pod was given."""

    NONE = "none"
    POSSIBLE = "possible"  # unknown plugins, which may use one
    NEEDED = "needed"


def device_use(network: Network) -> DeviceUse:
    if any(_needs_device(plugin) for plugin in network.plugins):
        return DeviceUse.NEEDED
    return DeviceUse.NONE if _WITHOUT_DEVICE.issuperset(network.kinds) else DeviceUse.POSSIBLE


def _needs_device(plugin: Mapping[str, Any]) -> bool:
    if plugin["type"] == "host-device":
        return not any(plugin.get(key) for key in _HOST_DEVICE_KEYS)
    return plugin["type"] in _NEEDS_DEVICE


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
        self._handed_out: dict[str, list[str]] = {}
        for resource, device in taken:
            self._handed_out.setdefault(resource, []).append(device)

    @cached_property
    def _free(self) -> dict[str, list[str]]:
        given = {device for devices in self._handed_out.values() for device in devices}
        return {resource: sorted(set(ids) - given) for resource, ids in self._lookup().items()}

    def has_free(self, resource: str) -> bool:
        """Whether a device of the resource is still free. Raises what `lookup` raises."""
        return bool(self._free.get(resource))

    def has_handed_out(self, resource: str) -> bool:
        return bool(self._handed_out.get(resource))

    def take(self, resource: str) -> str:
        """Take the resource's first free device. Raises Error(DEVICE) if none is left, or what `lookup` raises."""
        left = self._free.get(resource)
        if not left:
            given = self._handed_out.get(resource, ())
            reason = f"all {len(given)} are attached already" if given else "it was given none"
            raise Error(
                Kind.DEVICE,
                f"no device of resource {resource} is left for pod {self._pod}: {reason}",
                hint="each network that uses the resource needs one in the limits of a container",
                about=[Thing("resource", resource)],
            )
        return self._hand_out(resource, left[0])

    def take_id(self, device: str, resource: str = "") -> str:
        """Take this device, which must be one of the pod's (of `resource`, if given); return its resource.

        Raises Error(POLICY) if it is not the pod's or is attached already, or what `lookup` raises.
        """
        for name, ids in self._free.items():
            if device in ids and resource in ("", name):
                self._hand_out(name, device)
                return name
        if any(device in ids for ids in self._handed_out.values()):
            raise Error(Kind.POLICY, f"device {device} is requested twice", key="deviceID")
        given = f"as resource {resource}" if resource else "by the kubelet"
        raise Error(
            Kind.POLICY,
            f"device {device} was not given to pod {self._pod} {given}",
            key="deviceID",
            about=[Thing("resource", resource)] if resource else (),
        )

    def _hand_out(self, resource: str, device: str) -> str:
        """Hand out the device and remove it from every resource that lists it."""
        for ids in self._free.values():
            if device in ids:
                ids.remove(device)
        self._handed_out.setdefault(resource, []).append(device)
        return device
