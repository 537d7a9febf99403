"""Checks of pods with devices on vfio-pci: do their containers have what DPDK needs?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from wirespeed.cli.checks.findings import Finding
from wirespeed.cli.checks.places import Place, list_at, object_at, value_at
from wirespeed.node import NodeConfig
from wirespeed.plugins.meta.networks import RESOURCE_NAME
from wirespeed.provision.policy import KIND as NODE_POLICY

_DRIVER = "vfio-pci"
_ANY_PREFIX = "*"  # the prefix is in the operator's configuration, not in the files


class Resources:
    """The resources whose devices are on vfio-pci, as far as device plugin, policies and networks tell."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, kind: str, value: Any) -> None:
        """Add the resources of a document."""
        if kind == "device plugin":
            self._names |= set(_of_pools(object_at(value)))
        elif kind == NODE_POLICY:
            spec = object_at(value, "spec")
            if spec.get("deviceType") == _DRIVER:
                self._names.add(f"{_ANY_PREFIX}/{spec.get('resourceName')}")

    def add_network(self, raw: dict[str, Any]) -> None:
        """Add the resource of a NetworkAttachmentDefinition whose network binds vfio-pci."""
        resource = value_at(raw, "metadata", "annotations", RESOURCE_NAME)
        if isinstance(resource, str) and _DRIVER in _drivers(value_at(raw, "spec", "config")):
            self._names.add(resource)

    def among(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are on vfio-pci."""
        return [each for each in names if {each, f"{_ANY_PREFIX}/{each.partition('/')[2]}"} & self._names]


def findings(spec: dict[str, Any], place: Place, resources: Resources) -> Iterator[Finding]:
    """Find what a pod's containers lack. All are warnings, since a program may not need it."""
    for number, container in enumerate(list_at(spec, "containers")):
        limits = object_at(container, "resources", "limits")
        found = resources.among(map(str, limits))
        if not found:
            continue
        line = place.at(("containers", number)).line
        where = f"container {value_at(container, 'name')}: {', '.join(found)} is on {_DRIVER}"
        if reason := _cannot_lock(object_at(container, "securityContext")):
            yield Finding(line, error=False, text=f"{where}: {reason}")
        if not any(str(name).startswith("hugepages-") for name in limits):
            yield Finding(
                line, error=False, text=f"{where}: its limits have no hugepages, which DPDK takes memory from"
            )


def _cannot_lock(context: dict[str, Any]) -> str:
    """Return why a container cannot lock the memory that its device accesses; "" if it can."""
    if context.get("privileged") is True:
        return ""
    add, drop = ([str(each).upper() for each in list_at(context, "capabilities", key)] for key in ("add", "drop"))
    if {"ALL", "IPC_LOCK"} & {*add} and "IPC_LOCK" not in drop:
        return ""
    if "CAP_IPC_LOCK" in add:
        return "the capability is IPC_LOCK in Kubernetes: containerd does not know CAP_IPC_LOCK"
    return (
        "its securityContext does not add the capability IPC_LOCK: vfio locks the memory that the device reads and "
        "writes, beyond a container's limit"
    )


def _of_pools(config: dict[str, Any]) -> Iterator[str]:
    """Yield the resources of a device plugin's configuration whose selectors all choose vfio-pci alone."""
    pools = next((value for key, value in config.items() if key.lower() == "resourcelist"), ())
    for pool in map(_lowered, list_at(pools)):
        chosen = pool.get("selectors")
        selectors = [_lowered(each) for each in (chosen if isinstance(chosen, list) else [chosen])]
        if selectors and all(list_at(each, "drivers") == [_DRIVER] for each in selectors):
            prefix = pool.get("resourceprefix") or NodeConfig().resource_prefix
            yield f"{prefix}/{pool.get('resourcename')}"


def _drivers(config: Any) -> list[Any]:
    """Return the drivers that a network's plugins bind."""
    try:
        network = json.loads(config) if isinstance(config, str) else {}
    except (ValueError, RecursionError):
        return []
    return [value_at(each, "driver") for each in (network, *list_at(network, "plugins"))]


def _lowered(value: Any) -> dict[str, Any]:
    """Return the object with lower-case keys: they are read in any case, as the SR-IOV device plugin reads them."""
    return {str(key).lower(): each for key, each in object_at(value).items()}
