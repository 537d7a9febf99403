"""Pods in a measurement, as its ends or as forwarders: those that this node's journal knows, or those of a play."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from wirespeed import structs
from wirespeed.agent.hotplug import master_rows
from wirespeed.errors import Error, Kind, Thing, os_errors
from wirespeed.kube.cluster import NETWORK_STATUS
from wirespeed.measure.forwarder import Port
from wirespeed.measure.path import Endpoint
from wirespeed.node import load_config, open_journal
from wirespeed.play.sandbox import NETNS
from wirespeed.state.journal import Attachment

_POD = "pod/"
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_NAMED = "/run/netns"  # where `ip netns` keeps namespaces


def endpoint(text: str, config: Path | None) -> Endpoint:
    """Parse [PLACE:]INTERFACE. PLACE is pod/[NAMESPACE/]NAME, a path, or a name of `ip netns`.

    Pods are those of a play, in the command that runs with it, otherwise those in this node's journal.
    Raises Error: NOT_ATTACHED for an unknown pod, INVALID_REQUEST.
    """
    place, _, interface = text.rpartition(":")
    if not interface:
        raise Error(Kind.INVALID_REQUEST, "no interface", expected="[PLACE:]INTERFACE", got=text)
    if place.startswith(_POD):
        return Endpoint(_pod(place, config).netns, interface)
    return Endpoint(place if not place or place.startswith("/") else f"{_NAMED}/{place}", interface)


def is_made(port: str) -> bool:
    """Whether a port of a forwarder is given as a network, on which the forwarder must be made."""
    return not port.startswith(_POD) and not _MAC.fullmatch(port)


def port(text: str, config: Path | None) -> Port:
    """Return the port of a running forwarder: pod/[NAMESPACE/]NAME:INTERFACE, or its MAC.

    Raises Error: NOT_ATTACHED for an unknown pod or interface, INVALID_REQUEST, UNSUPPORTED for an unknown MAC.
    """
    if _MAC.fullmatch(text):
        return Port(name="", mac=text.lower())
    place, _, interface = text.rpartition(":")
    if not place or not interface:
        expected = "pod/[NAMESPACE/]NAME:INTERFACE, or a MAC address"
        raise Error(Kind.INVALID_REQUEST, "no port of a forwarder", expected=expected, got=text)
    found = attached(place, interface, config)
    if not _MAC.fullmatch(found.mac):
        hint = "give the MAC address instead of the pod"
        where = Thing("pod", found.pod, interface)
        raise Error(Kind.UNSUPPORTED, "the MAC address of the port is not recorded", where=where, hint=hint)
    return Port(name=f"{interface} of pod {found.pod}", mac=found.mac.lower(), device=found.device)


class Attached(NamedTuple):
    """An interface of a pod, as its network's plugin reported it; its MAC is "" if it reported none.

    `device` is what DPDK calls it: the PCI address, or what `wirespeed eal` calls a virtual device; "" if that is
    not known.
    """

    pod: str  # NAMESPACE/NAME
    device: str
    mac: str


def attached(place: str, interface: str, config: Path | None) -> Attached:
    """Return an interface of the pod pod/[NAMESPACE/]NAME. Raises Error(NOT_ATTACHED)."""
    found = _pod(place, config)
    if (each := found.interfaces.get(interface)) is None:
        known = ", ".join(found.interfaces) or "none"
        expected = f"one of its interfaces: {known}"
        where = Thing("pod", found.name)
        raise Error(Kind.NOT_ATTACHED, "no such interface", where=where, expected=expected, got=interface)
    return each


class _Pod(NamedTuple):
    name: str  # NAMESPACE/NAME
    netns: str
    interfaces: dict[str, Attached]


def _pod(place: str, config: Path | None) -> _Pod:
    """Return the pod pod/[NAMESPACE/]NAME. Raises Error(NOT_ATTACHED)."""
    namespace, _, name = place.removeprefix(_POD).rpartition("/")
    namespace = namespace or "default"
    label = f"{namespace}/{name}"
    if told := os.environ.get("PODS"):  # see `wirespeed play --then`
        if found := _pod_in_play(Path(told), namespace, name):
            return found
        raise Error(Kind.NOT_ATTACHED, "it is not in this play", where=Thing("pod", label))
    with closing(open_journal(load_config(config))) as journal:
        rows = list(master_rows(journal, namespace, name))
        if not rows:
            raise Error(Kind.NOT_ATTACHED, "not attached on this node", where=Thing("pod", label))
        own = [each for each in journal.attachments() if each.container == rows[-1].container]
    return _Pod(label, rows[-1].netns, {each.ifname: _reported(label, each) for each in own})


def _reported(pod: str, row: Attachment) -> Attached:
    """Return what the result of an attachment says of its interface."""
    for each in (row.result or {}).get("interfaces", ()):
        if each.get("name") == row.ifname:
            return Attached(pod, each.get("pciID", ""), each.get("mac", ""))
    return Attached(pod, "", "")


class _Metadata(msgspec.Struct):
    name: str
    namespace: str
    annotations: dict[str, str]


class _PlayedPod(msgspec.Struct):
    metadata: _Metadata


@structs.prepared
class _Pods(msgspec.Struct):
    items: list[_PlayedPod]


def _pod_in_play(file: Path, namespace: str, name: str) -> _Pod | None:
    """Return a pod in the file of a play, None if it has no such pod."""
    with os_errors():
        pods = msgspec.json.decode(file.read_bytes(), type=_Pods)
    for each in (item.metadata for item in pods.items):
        if (each.namespace, each.name) != (namespace, name):
            continue
        label = f"{namespace}/{name}"
        status: list[dict[str, Any]] = json.loads(each.annotations.get(NETWORK_STATUS) or "[]")
        devices = _devices([entry.get("device-info", {}) for entry in status])
        interfaces = {
            entry.get("interface", ""): Attached(label, device, entry.get("mac", ""))
            for entry, device in zip(status, devices, strict=True)
        }
        return _Pod(label, each.annotations[NETNS], interfaces)
    return None


_VIRTUAL = {"vhost-user": "virtio_user", "memif": "net_memif"}  # types of device-info: names of `wirespeed eal`


def _devices(infos: list[dict[str, Any]]) -> Iterator[str]:
    """Yield DPDK's name for the device of each interface, "" if it has none."""
    counts: Counter[str] = Counter()
    for info in infos:
        kind = info.get("type", "")
        if kind in _VIRTUAL:
            yield f"{_VIRTUAL[kind]}{counts[kind]}"
            counts[kind] += 1
        else:
            yield info.get("pci", {}).get("pci-address", "")
