"""The node's virtual switches with the vhost-user and memif ports of pods, from the journal and Open vSwitch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wirespeed import extras
from wirespeed.errors import Error
from wirespeed.node import Node
from wirespeed.observe.attached import Attached, PodInterface
from wirespeed.plugins.vhost.conf import MEMIF, NONE, OVS, VHOSTUSER, VPP
from wirespeed.plugins.vhost.record import PLUGIN, VhostRecord, record_of
from wirespeed.switches.switch import ANSWER_TIMEOUT

KINDS = (OVS, VPP, NONE)
_VHOST_TYPES = ("dpdkvhostuserclient", "dpdkvhostuser")
MISSING = "missing"


class SwitchPort(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A port of a pod. `kind` is "vhostuser" or "memif", `role` the pod's.

    `state` is "up", "down", "missing" (the switch does not have it), the switch's error, or "" if it is unknown.
    `vlan` is the untagged VLAN, `trunk` are the tagged ones. `mtu` is in bytes, 0 if unknown. `pod` is None for a
    port that is not in the journal.
    """

    name: str
    kind: str
    role: str = ""
    socket: str = ""
    state: str = ""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    mtu: int = 0
    pod: PodInterface | None = None


class Switch(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A bridge of a switch with the pods' ports. `kind` is "ovs-dpdk", "vpp", or "none" for memif between pods.

    `bridge` is Open vSwitch's bridge, VPP's bridge domain ("" for routed ports) or the socket of a memif link;
    `others` are the bridge's other ports, such as its uplinks.
    """

    kind: str
    bridge: str
    datapath: str = ""
    others: tuple[str, ...] = ()
    ports: tuple[SwitchPort, ...] = ()


def read(node: Node, pods: Attached, *kinds: str) -> tuple[list[Switch], list[Error]]:
    """Return the switches of these kinds, and why Open vSwitch tells nothing: then the journal alone does."""
    found: list[Switch] = []
    errors: list[Error] = []
    for kind in kinds:
        ports = list(_recorded(pods, kind))
        if kind == OVS and (ports or _has_database(node.config.vhost.ovsdb)):
            try:
                found += _in_ovs(node.config.vhost.ovsdb, ports)
                continue
            except Error as error:
                errors.append(error)
        found += _by_bridge(kind, ports)
    return found, errors


def _in_ovs(remote: str, recorded: Sequence[tuple[str, SwitchPort]]) -> list[Switch]:
    """Return the bridges of Open vSwitch, and the recorded ports that it does not have. Raises Error."""
    bridges = list(_bridges(remote, {port.name: port for _, port in recorded}))
    shown = {port.name for bridge in bridges for port in bridge.ports}
    missing: dict[str, list[SwitchPort]] = {}
    for bridge_name, port in recorded:
        if port.name not in shown:
            missing.setdefault(bridge_name, []).append(msgspec.structs.replace(port, state=MISSING))
    there = [msgspec.structs.replace(each, ports=(*each.ports, *missing.pop(each.bridge, ()))) for each in bridges]
    return [*there, *(Switch(kind=OVS, bridge=name, ports=tuple(ports)) for name, ports in missing.items())]


def _recorded(pods: Attached, kind: str) -> Iterator[tuple[str, SwitchPort]]:
    """Yield bridge and port of each claim with that engine."""
    for claim in pods.claims.values():
        if claim.plugin != PLUGIN:
            continue
        record = record_of(claim)
        if record.engine == kind:
            port = SwitchPort(
                name=record.port,
                kind=_kind(record),
                role=record.role,
                socket=record.socket,
                pod=pods.of(claim),
            )
            yield (record.socket if kind == NONE else record.bridge), port


def _kind(record: VhostRecord) -> str:
    return MEMIF if record.role in {"master", "slave"} else VHOSTUSER


def _by_bridge(kind: str, ports: Iterable[tuple[str, SwitchPort]]) -> Iterator[Switch]:
    found: dict[str, list[SwitchPort]] = {}
    for bridge, port in ports:
        found.setdefault(bridge, []).append(port)
    for bridge, those in sorted(found.items()):
        yield Switch(kind=kind, bridge=bridge, ports=tuple(those))


def _has_database(remote: str) -> bool:
    """Whether Open vSwitch is expected on this node: its database is remote, or its socket exists."""
    scheme, _, path = remote.partition(":")
    return scheme != "unix" or Path(path).exists()


def _bridges(remote: str, recorded: Mapping[str, SwitchPort]) -> Iterator[Switch]:
    """Yield the bridges that have vhost-user ports, with what the journal says of the ports. Raises Error."""
    extras.need("ovs", "the view of Open vSwitch")
    from wirespeed.switches import ovsdb  # noqa: PLC0415
    from wirespeed.switches.ovsdb import items, select_rows  # noqa: PLC0415

    columns = ["_uuid", "name", "type", "options", "mtu", "link_state", "error"]
    with ovsdb.connected(remote, deadline=time.monotonic() + ANSWER_TIMEOUT) as database:
        bridges, ports, interfaces = database.transact(
            select_rows("Bridge", columns=["name", "datapath_type", "ports"]),
            select_rows("Port", columns=["_uuid", "name", "tag", "trunks", "interfaces"]),
            select_rows("Interface", columns=columns),
        )
    by_uuid = {row["_uuid"][1]: row for row in interfaces["rows"]}
    rows = {row["_uuid"][1]: (row, by_uuid[items(row["interfaces"])[0][1]]) for row in ports["rows"]}
    for bridge in sorted(bridges["rows"], key=lambda row: str(row["name"])):
        mine = [rows[uuid] for _, uuid in items(bridge["ports"])]
        of_pods = [_port(*each, recorded) for each in mine if each[1]["type"] in _VHOST_TYPES]
        if of_pods:
            others = [row["name"] for row, each in mine if each["type"] not in (*_VHOST_TYPES, "internal")]
            yield Switch(
                kind=OVS,
                bridge=bridge["name"],
                datapath=bridge["datapath_type"] or "system",
                others=tuple(sorted(others)),
                ports=tuple(sorted(of_pods, key=lambda port: port.name)),
            )


def _port(row: Mapping[str, Any], interface: Mapping[str, Any], recorded: Mapping[str, SwitchPort]) -> SwitchPort:
    from wirespeed.switches.ovsdb import items, mapping  # noqa: PLC0415 — an extra

    known = recorded.get(row["name"])
    error, state, vlan, mtu = (
        next(iter(items(value)), None)
        for value in (interface["error"], interface["link_state"], row["tag"], interface["mtu"])
    )
    path = mapping(interface["options"]).get("vhost-server-path", "")
    return SwitchPort(
        name=row["name"],
        kind=VHOSTUSER,
        role="server" if interface["type"] == "dpdkvhostuserclient" else "client",
        socket=path or (known.socket if known else ""),
        state=error or state or "",
        vlan=vlan,
        trunk=tuple(sorted(items(row["trunks"]))),
        mtu=mtu or 0,
        pod=known.pod if known else None,
    )
