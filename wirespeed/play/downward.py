"""The Downward API: a pod's own fields, in variables and files of its containers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING
from typing import TYPE_CHECKING

import msgspec

from wirespeed.play import quantity

if TYPE_CHECKING:
    from wirespeed.play.environment import Facts
    from wirespeed.play.manifests import Container, Pod

_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_METADATA = ("metadata.name", "metadata.namespace", "metadata.uid")
_WHOLE = ("metadata.labels", "metadata.annotations")  # only for volumes
_REST = ("spec.nodeName", "spec.serviceAccountName", "status.podIP", "status.podIPs")  # only for variables
_ESCAPED = {'"': r"\"", "\\": r"\\", "\a": r"\a", "\b": r"\b", "\f": r"\f"} | {
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
}


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a pod. An unknown key is an error, as in Kubernetes."""


class FieldRef(_Part):
    field_path: str
    api_version: str = "v1"


class ResourceFieldRef(_Part):
    resource: str  # "limits.cpu", "requests.hugepages-1Gi", ...
    container_name: str = ""  # a variable's default is its own container
    divisor: str | int | float = 0  # 0 means 1


def field_refusal(path: str, *, volume: bool = False) -> str:
    """Return what is wrong with the fieldPath of a variable or a volume; "" if it is supported here."""
    known = (*_METADATA, *(_WHOLE if volume else _REST))
    if path in known or _KEYED.fullmatch(path):
        return ""
    listed = ", ".join((*known, "metadata.labels['KEY']", "metadata.annotations['KEY']"))
    return f"expected one of {listed}, got {path!r}"


def resource_refusal(ref: ResourceFieldRef) -> str:
    """Return what is wrong with a resourceFieldRef, starting with the key; "" if nothing is."""
    kind, _, resource = ref.resource.partition(".")
    known = resource in {"cpu", "memory", "ephemeral-storage"} or resource.startswith("hugepages-")
    if kind not in {"limits", "requests"} or not known:
        return (
            ".resource: expected limits or requests of cpu, memory, ephemeral-storage or hugepages-<size>, like "
            f"limits.cpu, got {ref.resource!r}"
        )
    try:
        negative = quantity.parse(ref.divisor) < 0
    except ValueError as error:
        return f".divisor: {error}"
    return f".divisor: expected a quantity from 0, got {ref.divisor!r}" if negative else ""


def field(pod: Pod, path: str, facts: Facts) -> str:
    """Return the value of a fieldPath."""
    labels = pod.metadata.labels or {}
    if keyed := _KEYED.fullmatch(path):
        kind, key = keyed.groups()
        return (facts.annotations if kind == "annotations" else labels).get(key, "")
    if path in _WHOLE:
        return lines(facts.annotations if path == "metadata.annotations" else labels)
    return {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": facts.uid,
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": "default",
        "status.podIP": facts.ips[0] if facts.ips else "",
        "status.podIPs": ",".join(facts.ips),
    }[path]


def resource(ref: ResourceFieldRef, containers: Iterable[Container], own: str = "") -> str:
    """Return how much of a resource a container may use, in units of the divisor, rounded up.

    As in the kubelet, a container without a limit has the node's amount as limit, and a container without a request
    has its limit as request.
    """
    name = ref.container_name or own
    asked = next(each.resources for each in containers if each.name == name)
    kind, _, resource = ref.resource.partition(".")
    limit = asked.limits.get(resource)
    amount = limit if kind == "limits" else asked.requests.get(resource, limit)
    if kind == "limits" and not quantity.parse(amount or 0):
        amount = _of_node(resource)
    units = quantity.parse(amount or 0) / (quantity.parse(ref.divisor) or 1)
    return str(units.to_integral_value(ROUND_CEILING))


def lines(values: Mapping[str, str]) -> str:
    """Format labels or annotations as the kubelet does: one per line, sorted, quoted as Go does."""
    return "\n".join(f"{key}={quoted(value)}" for key, value in sorted(values.items()))


def quoted(text: str) -> str:
    """Quote a text like Go's strconv.Quote."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _of_node(resource: str) -> int:
    """Return this machine's amount of a resource; 0 for hugepages, which have no default."""
    if resource == "cpu":
        return len(os.sched_getaffinity(0))
    if resource == "memory":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resource == "ephemeral-storage":
        room = os.statvfs("/")
        return room.f_blocks * room.f_frsize
    return 0
