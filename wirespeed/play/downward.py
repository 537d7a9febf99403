"""The Downward API: what a pod's containers are told of the pod itself, in variables and in files."""

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
_WHOLE = ("metadata.labels", "metadata.annotations")  # for files only
_REST = ("spec.nodeName", "spec.serviceAccountName", "status.podIP", "status.podIPs")  # for variables only
_ESCAPED = {'"': r"\"", "\\": r"\\", "\a": r"\a", "\b": r"\b", "\f": r"\f"} | {
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
}


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A part of a pod: a key that Kubernetes does not know is a mistake."""


class FieldRef(_Part):
    field_path: str
    api_version: str = "v1"


class ResourceFieldRef(_Part):
    resource: str  # "limits.cpu", "requests.hugepages-1Gi", ...
    container_name: str = ""  # a variable's is its own container
    divisor: str | int | float = 0  # 0 is 1


def field_refusal(path: str, *, volume: bool = False) -> str:
    """What is wrong with a fieldPath, of a variable or a volume; "" if it is filled in here."""
    known = (*_METADATA, *(_WHOLE if volume else _REST))
    if path in known or _KEYED.fullmatch(path):
        return ""
    listed = ", ".join((*known, "metadata.labels['KEY']", "metadata.annotations['KEY']"))
    return f"expected one of {listed}, got {path!r}"


def resource_refusal(ref: ResourceFieldRef) -> str:
    """What is wrong with a resourceFieldRef, beginning with its key; "" for nothing."""
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
    """What a fieldPath stands for."""
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
    """How much a container may have of a resource, in units of the divisor, rounded up.

    As to the kubelet, one without a limit may have what the node has; who asks for nothing asks for the limit.
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
    """Labels or annotations as the kubelet writes them: one a line, in their order, quoted as Go quotes."""
    return "\n".join(f"{key}={quoted(value)}" for key, value in sorted(values.items()))


def quoted(text: str) -> str:
    """A text as Go's strconv.Quote has it."""
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
    """What this machine has of it; hugepages are only for who asks for them."""
    if resource == "cpu":
        return len(os.sched_getaffinity(0))
    if resource == "memory":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resource == "ephemeral-storage":
        room = os.statvfs("/")
        return room.f_blocks * room.f_frsize
    return 0
