"""Which device each attachment of a pod gets: one allocator over what the kubelet gave to the pod."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wirespeed.cni.errors import CniError, Code


class Devices:
    """Hands each device of a pod out once; the same pod always gets the same order.

    `lookup` gives the ids by resource name; it is asked when the first device is wanted. `pod` is how messages
    name the pod. `taken` are those, as (resource, device), that it has attached already.
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

    def take(self, resource: str) -> str:
        """The first device of a resource that is left.

        Raises CniError(DEVICE) when none is, or what asking the kubelet raises.
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
        """That device, which must be one of the pod's (of `resource`, when given); returns its resource.

        Raises CniError(POLICY) when it is not or is attached already, or what asking the kubelet raises.
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
        """Give the device out, under whatever resources it is listed."""
        for ids in self._left().values():
            if device in ids:
                ids.remove(device)
        self._given.setdefault(resource, []).append(device)
        return device
