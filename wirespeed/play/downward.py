"""The Downward API: a pod's own fields, in variables and files of its containers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING

from wirespeed import errors
from wirespeed.errors import Error, Kind
from wirespeed.play import quantity
from wirespeed.play.objects import Container, Facts, FieldRef, Pod, ResourceFieldRef

_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_METADATA = ("metadata.name", "metadata.namespace", "metadata.uid")
_VOLUME_ONLY = ("metadata.labels", "metadata.annotations")  # only for volumes
_VARIABLE_ONLY = ("spec.nodeName", "spec.serviceAccountName", "status.podIP", "status.podIPs")  # only for variables
_ESCAPED = {each: f"\\{letter}" for each, letter in zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True)}


def check_field(ref: FieldRef, *, volume: bool = False) -> None:
    """Check that the fieldPath of a variable or a volume is supported here. Raises Error(INVALID_CONFIG)."""
    path = ref.field_path
    known = (*_METADATA, *(_VOLUME_ONLY if volume else _VARIABLE_ONLY))
    if path not in known and not _KEYED.fullmatch(path):
        listed = ", ".join((*known, "metadata.labels['KEY']", "metadata.annotations['KEY']"))
        raise Error(Kind.INVALID_CONFIG, key="fieldPath", expected=f"one of {listed}", got=path)


def check_resource(ref: ResourceFieldRef) -> None:
    """Check a resourceFieldRef. Raises Error(INVALID_CONFIG)."""
    kind, _, resource = ref.resource.partition(".")
    known = resource in {"cpu", "memory", "ephemeral-storage"} or resource.startswith("hugepages-")
    if kind not in {"limits", "requests"} or not known:
        expected = "limits or requests of cpu, memory, ephemeral-storage or hugepages-<size>, like limits.cpu"
        raise Error(Kind.INVALID_CONFIG, key="resource", expected=expected, got=ref.resource)
    with errors.under("divisor"):
        if quantity.parse(ref.divisor) < 0:
            raise Error(Kind.INVALID_CONFIG, expected="a quantity from 0", got=ref.divisor)


def field(pod: Pod, path: str, facts: Facts) -> str:
    labels = pod.metadata.labels or {}
    if keyed := _KEYED.fullmatch(path):
        kind, key = keyed.groups()
        return (facts.annotations if kind == "annotations" else labels).get(key, "")
    if path in _VOLUME_ONLY:
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
        amount = _node_amount(resource)
    units = quantity.parse(amount or 0) / (quantity.parse(ref.divisor) or 1)
    return str(units.to_integral_value(ROUND_CEILING))


def lines(values: Mapping[str, str]) -> str:
    """Format labels or annotations as the kubelet does: one per line, sorted, quoted as Go does."""
    return "\n".join(f"{key}={quote(value)}" for key, value in sorted(values.items()))


def quote(text: str) -> str:
    """Quote a text like Go's strconv.Quote."""
    return f'"{"".join(map(_escape, text))}"'


def _escape(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _node_amount(resource: str) -> int:
    """Return this machine's amount of a resource; 0 for hugepages, which have no default."""
    if resource == "cpu":
        return len(os.sched_getaffinity(0))
    if resource == "memory":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resource == "ephemeral-storage":
        room = os.statvfs("/")
        return room.f_blocks * room.f_frsize
    return 0
