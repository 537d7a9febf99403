"""Devices that DRA drivers allocated to a pod: its ResourceClaims name them, ResourceSlices describe them.

The kubelet's pod-resources service lists devices of claims too, but not those of a claim that no container uses,
nor those that a driver prepares without naming them to the kubelet. Nor does it report whether a device is for
admin access only, and for which request it is. The claim has all of this, and costs one request to the API server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from wirespeed import structs
from wirespeed.errors import Error, Kind, Thing, within
from wirespeed.kube.cluster import RETRY_UNTIL, Cluster, UnavailableError

log = logging.getLogger(__name__)

# Attributes of a network device: the resource that a NetworkAttachmentDefinition names, the PCI address.
RESOURCE_NAME = "k8s.cni.cncf.io/resourceName"
DEVICE_ID = "k8s.cni.cncf.io/deviceID"

_MAX_SECONDS = 20.0  # seconds after which no further claim or slice of a pod is requested

T = TypeVar("T")


class _Part(msgspec.Struct, rename="camel"):
    """Part of an object, with the fields that are read; null is not given. Claims, slices: resource.k8s.io/v1."""


class _Result(_Part):
    """One allocated device; `request` is the name of the claim's request that it satisfies."""

    request: str
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None

    def __str__(self) -> str:
        return f"device {self.device} of pool {self.pool} of driver {self.driver}"


class _Devices(_Part):
    results: list[_Result] | None = None


class _Allocation(_Part):
    devices: _Devices | None = None


class _ClaimStatus(_Part):
    allocation: _Allocation | None = None


@structs.prepared
class _Claim(_Part):
    status: _ClaimStatus | None = None


class _Attribute(_Part):
    string: str | None = None


class _Device(_Part):
    name: str
    attributes: dict[str, _Attribute] | None = None

    def text(self, attribute: str) -> str:
        """Return the attribute's value, "" if it is missing or no string."""
        value = (self.attributes or {}).get(attribute)
        return (value.string or "") if value else ""


class _Pool(_Part):
    name: str
    generation: int


class _SliceSpec(_Part):
    driver: str
    pool: _Pool
    node_name: str | None = None
    devices: list[_Device] | None = None


@structs.prepared
class _Slice(_Part):
    spec: _SliceSpec


class _ClaimName(_Part):
    resource_claim_name: str | None = None


class _Mapping(_Part):
    resource_name: str
    request_name: str


class _Extended(_Part):
    """The claim that was created for the extended resources in the requests of the pod's containers."""

    resource_claim_name: str
    request_mappings: list[_Mapping]


class _PodSpec(_Part):
    node_name: str | None = None
    resource_claims: list[_ClaimName] | None = None


class _PodStatus(_Part):
    resource_claim_statuses: list[_ClaimName] | None = None
    extended_resource_claim_status: _Extended | None = None


class _Metadata(_Part):
    namespace: str


@structs.prepared
class _Pod(_Part):
    metadata: _Metadata
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


def has_claims(pod: dict[str, Any]) -> bool:
    """Whether the pod has claims; most have none, and need no further look-up."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    keys = ("resourceClaimStatuses", "extendedResourceClaimStatus")
    return bool(spec.get("resourceClaims") or any(status.get(key) for key in keys))


def devices(cluster: Cluster, pod: dict[str, Any]) -> dict[str, list[str]]:
    """Return the sorted ids of the network devices in the pod's claims, by resource name.

    A device that lacks one of the two attributes, or is no longer published, is skipped, as a claim may be for
    another kind of device; if the claim stands for extended resources, that is an error. Claims are requested each
    time, as their names may be reused; slices may come from the cluster's cache.
    Raises NotFoundError for a claim; UnavailableError; Error(DEVICE) for a claim without devices, or with
    others than the pod requested; Error(INVALID_CONFIG) for an object that does not have the API's types.
    """
    found: dict[str, set[str]] = {}
    for resource, device in _Lookup(cluster, pod).found():
        found.setdefault(resource, set()).add(device)
    return {resource: sorted(ids) for resource, ids in found.items()}


def publishes(cluster: Cluster, pod: dict[str, Any], resource: str) -> bool:
    """Whether a driver of the pod's claims publishes devices of the resource. Raises the errors of `devices`."""
    return _Lookup(cluster, pod).publishes(resource)


class _OtherDeviceError(Error):
    """The device is not usable as a network device."""


class _Lookup:
    """The claims of one pod, and the slices of their drivers."""

    def __init__(self, cluster: Cluster, pod: dict[str, Any]) -> None:
        self._cluster = cluster
        self._pod = _convert(pod, _Pod, where="pod")
        self._extended = self._pod.status.extended_resource_claim_status if self._pod.status else None
        began = time.monotonic()
        self._end = max(began + _MAX_SECONDS, RETRY_UNTIL.get())
        self._seconds = self._end - began
        self._slices: dict[str, list[_SliceSpec]] = {}
        self._refreshed: set[str] = set()

    def found(self) -> Iterator[tuple[str, str]]:
        """Yield the resource and the id of each device."""
        for name in self._names():
            yield from self._claim_devices(name)
        if self._extended:
            yield from self._extended_devices(self._extended)

    def publishes(self, resource: str) -> bool:
        """Whether one of the drivers of the claims' devices has devices of the resource."""
        names = [*self._names(), *([self._extended.resource_claim_name] if self._extended else ())]
        drivers = dict.fromkeys(result.driver for name in names for result in self._results(name))
        return any(
            device.text(RESOURCE_NAME) == resource
            for driver in drivers
            for spec in self._read(driver, fresh=False)
            for device in spec.devices or ()
        )

    def _names(self) -> list[str]:
        """Return the names of the claims that the pod names itself, and of those created from templates for it."""
        spec, status = self._pod.spec or _PodSpec(), self._pod.status or _PodStatus()
        entries = [*(spec.resource_claims or ()), *(status.resource_claim_statuses or ())]
        names = dict.fromkeys(entry.resource_claim_name for entry in entries)
        return [name for name in names if name]  # there need not be a claim for a template

    def _claim_devices(self, name: str) -> Iterator[tuple[str, str]]:
        for result in self._results(name):
            try:
                network = self._network(result)
            except _OtherDeviceError as error:
                log.info("%s: not a network device: %s", self._claim(name), error)
                continue
            yield network

    def _extended_devices(self, extended: _Extended) -> Iterator[tuple[str, str]]:
        results = self._results(extended.resource_claim_name)
        for mapping in extended.request_mappings:
            asked = [result for result in results if result.request == mapping.request_name]
            with within(self._claim(extended.resource_claim_name), Thing("request", mapping.request_name)):
                if not asked:
                    raise Error(Kind.DEVICE, f"no device of {mapping.resource_name} is allocated for it")
                networks = [self._network(result, mapping.resource_name) for result in asked]
            yield from networks

    def _claim(self, name: str) -> Thing:
        return Thing("ResourceClaim", f"{self._pod.metadata.namespace}/{name}")

    def _results(self, name: str) -> list[_Result]:
        """Return the devices of a claim, without those for admin access, which other pods may own."""
        where = self._claim(name)
        self._check_time(where)
        claim = _convert(self._cluster.claim(self._pod.metadata.namespace, name), _Claim, where=where)
        allocation = claim.status.allocation if claim.status else None
        results = allocation.devices.results if allocation and allocation.devices else None
        if results is None:
            key = ("status", "allocation", "devices", "results")
            raise Error(Kind.DEVICE, where=where, key=key, missing=True, expected="the allocated devices")
        return [result for result in results if not result.admin_access]

    def _network(self, result: _Result, expected: str = "") -> tuple[str, str]:
        """Return the resource and the id of a device. Raises _OtherDeviceError, also for an unexpected resource."""
        device = self._device(result)
        if device is None:
            text = "no ResourceSlice of the pool's newest generation has it"
            raise _OtherDeviceError(Kind.DEVICE, text, where=str(result))
        resource, identity = device.text(RESOURCE_NAME), device.text(DEVICE_ID)
        if not resource or expected not in ("", resource):
            raise _mismatch(result, RESOURCE_NAME, expected or "a resource", resource)
        if not identity:
            raise _mismatch(result, DEVICE_ID, "a device", identity)
        return resource, identity

    def _device(self, result: _Result) -> _Device | None:
        """Return the device as its driver publishes it, None if it does not."""
        driver = result.driver
        if driver not in self._slices:
            self._slices[driver] = self._read(driver, fresh=False)
        device = _find(self._slices[driver], result)
        if device is None and driver not in self._refreshed:
            # The scheduler knew the device, so the cluster's cache may be outdated.
            self._refreshed.add(driver)
            self._slices[driver] = self._read(driver, fresh=True)
            device = _find(self._slices[driver], result)
        return device

    def _read(self, driver: str, *, fresh: bool) -> list[_SliceSpec]:
        """Return the driver's slices, without those of other nodes."""
        where = f"ResourceSlices of driver {driver}"
        self._check_time(where)
        listed = self._cluster.slices(driver, fresh=fresh)
        specs = [_convert(value, _Slice, where=where).spec for value in listed]
        here = self._pod.spec.node_name if self._pod.spec else None
        return [spec for spec in specs if not here or not spec.node_name or spec.node_name == here]

    def _check_time(self, where: str | Thing) -> None:
        if time.monotonic() > self._end:
            raise UnavailableError(f"the pod's claims took longer than {self._seconds:.3g} s", where=where)


def _mismatch(result: _Result, attribute: str, expected: str, got: str) -> _OtherDeviceError:
    where = (str(result), Thing("attribute", attribute))
    return _OtherDeviceError(Kind.DEVICE, where=where, expected=expected, got=got or None)


def _find(slices: Iterable[_SliceSpec], result: _Result) -> _Device | None:
    """Return the device from the newest generation of its pool: slices of older generations are obsolete."""
    pool = [spec for spec in slices if spec.pool.name == result.pool]
    newest = max((spec.pool.generation for spec in pool), default=0)
    current = (device for spec in pool if spec.pool.generation == newest for device in spec.devices or ())
    return next((device for device in current if device.name == result.device), None)


def _convert(value: object, kind: type[T], *, where: str | Thing) -> T:
    with within(where):
        return structs.read(value, kind)
