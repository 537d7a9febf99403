"""Pods as ends of a measurement: those that this node's journal knows, or those of a play."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.agent.hotplug import master_rows
from wirespeed.errors import Error, Kind, Thing, os_errors
from wirespeed.measure.path import Endpoint
from wirespeed.node import load_config, open_journal
from wirespeed.play.sandbox import NETNS

_POD = "pod/"
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
        namespace, _, name = place.removeprefix(_POD).rpartition("/")
        return Endpoint(_netns(namespace or "default", name, config), interface)
    return Endpoint(place if not place or place.startswith("/") else f"{_NAMED}/{place}", interface)


def _netns(namespace: str, name: str, config: Path | None) -> str:
    """Return the path of a pod's network namespace. Raises Error(NOT_ATTACHED)."""
    where = Thing("pod", f"{namespace}/{name}")
    if told := os.environ.get("PODS"):  # see `wirespeed play --then`
        if found := _netns_in_play(Path(told), namespace, name):
            return found
        raise Error(Kind.NOT_ATTACHED, "it is not in this play", where=where)
    with closing(open_journal(load_config(config))) as journal:
        rows = list(master_rows(journal, namespace, name))
    if not rows:
        raise Error(Kind.NOT_ATTACHED, "not attached on this node", where=where)
    return rows[-1].netns


class _Metadata(msgspec.Struct):
    name: str
    namespace: str
    annotations: dict[str, str]


class _Pod(msgspec.Struct):
    metadata: _Metadata


@structs.prepared
class _Pods(msgspec.Struct):
    items: list[_Pod]


def _netns_in_play(file: Path, namespace: str, name: str) -> str:
    """Return the path of the network namespace of a pod in the file of a play, "" if it has no such pod."""
    with os_errors():
        pods = msgspec.json.decode(file.read_bytes(), type=_Pods)
    found = (each.metadata for each in pods.items)
    return next((each.annotations[NETNS] for each in found if (each.namespace, each.name) == (namespace, name)), "")
