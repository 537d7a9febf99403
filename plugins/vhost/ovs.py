"""Open vSwitch with DPDK: manages vhost-user ports in its database, with one transaction per ADD and per DEL.

Our rows are marked in external_ids, because the database survives a reboot and the journal does not.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirespeed.cni.errors import CniError, Code
from wirespeed.plugins.vhost.conf import ALL, Bandwidth, Mirror, VhostConf
from wirespeed.plugins.vhost.engine import Found, Port
from wirespeed.switches import ovsdb
from wirespeed.switches.ovsdb import (
    Operation,
    Ovsdb,
    as_map,
    as_set,
    changed,
    differences,
    insert,
    items,
    mapping,
    mutate,
    named_uuid,
    one,
    rows,
    vlan_columns,
)

_MARK = "wirespeed"  # external_ids:wirespeed=<network> of a port, QoS or mirror
_MADE = {f"{_MARK}-made": "bridge"}  # external_ids of a bridge that we created
# Columns of a bridge that are empty unless it is used for more than userspace-CNI's ports.
_SETTINGS = ("external_ids", "other_config", "controller", "fail_mode", "netflow", "sflow", "ipfix", "mirrors")
_EMPTY = (["set", []], ["map", []])
_TYPES = {"client": "dpdkvhostuserclient", "server": "dpdkvhostuser"}
_SMALLEST_BURST = 8 * 65536  # bit; a burst smaller than a frame would drop everything


@dataclass(frozen=True, kw_only=True)
class _Bridge:
    uuid: str
    datapath: str
    ports: list[str]


class Ovs:
    """Open vSwitch with its database at `remote`; it creates the sockets that it listens on in `rundir`."""

    def __init__(self, remote: str, rundir: Path) -> None:
        self._remote, self._rundir = remote, rundir

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            sockets = self._check_switch(db, port.conf)
            configuration = _make(db, port)
            ofport = db.taken_up(port.name, configuration)
            if port.conf.role == "server":
                _move(sockets / port.name, Path(port.socket))
        return {"ofport": ofport, "type": _TYPES[port.conf.role]}

    def remove(self, port: Found, *, deadline: float) -> None:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            if port.marked:
                _unmake(db, port.name)
            else:
                _unmake_unmarked(db, port.name)

    def socket_of(self, name: str, *, deadline: float) -> str:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            (found,) = db.transact(rows("Interface", *_unmarked(name), columns=["options"]))
        return next((mapping(row["options"]).get("vhost-server-path", "") for row in found["rows"]), "")

    def drift(self, port: Port, *, deadline: float) -> list[str]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            ports, interfaces, bridges = db.transact(
                rows("Port", ["name", "==", port.name], columns=["_uuid", *_port_row(port)]),
                rows("Interface", ["name", "==", port.name], columns=[*_interface_row(port), "error", "ofport"]),
                rows("Bridge", ["name", "==", port.conf.bridge], columns=["ports"]),
            )
        if not ports["rows"] or not interfaces["rows"]:
            return [f"Open vSwitch has no port {port.name}"]
        row, interface = ports["rows"][0], interfaces["rows"][0]
        wrong = [f"port {port.name}: {fault}" for fault in differences(row, _port_row(port))]
        wrong += [f"interface {port.name}: {fault}" for fault in differences(interface, _interface_row(port))]
        if not any(row["_uuid"][1] in ovsdb.uuids(bridge["ports"]) for bridge in bridges["rows"]):
            wrong.append(f"port {port.name} is not in bridge {port.conf.bridge}")
        wrong += [f"interface {port.name}: {error}" for error in items(interface["error"]) if error]
        return wrong

    def ours(self, network: str, *, deadline: float) -> list[Found]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            mark = ["external_ids", "includes", as_map({_MARK: network})]
            (found,) = db.transact(rows("Port", mark, columns=["name"]))
        return [Found(name=row["name"]) for row in found["rows"]]

    def status(self, *, deadline: float) -> None:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            (found,) = db.transact(rows("Open_vSwitch", columns=["dpdk_initialized"]))
            db.check_switch_runs()
            _check_dpdk(found)

    def _check_switch(self, db: Ovsdb, conf: VhostConf) -> Path:
        """Return the folder of the switch's sockets. Raises CniError if the switch cannot create such a port."""
        (found,) = db.transact(rows("Open_vSwitch", columns=["dpdk_initialized", "iface_types", "other_config"]))
        _check_dpdk(found)
        kind = _TYPES[conf.role]
        if kind not in items(found["rows"][0]["iface_types"]):
            raise CniError(Code.UNAVAILABLE, f"Open vSwitch at {self._remote}: has no interfaces of type {kind}")
        return self._rundir / mapping(found["rows"][0]["other_config"]).get("vhost-sock-dir", "")


def _check_dpdk(found: ovsdb.Row) -> None:
    if not found["rows"] or not found["rows"][0]["dpdk_initialized"]:
        raise CniError(
            Code.UNAVAILABLE, "Open vSwitch runs without DPDK; expected other_config:dpdk-init=true and hugepages"
        )


def _bridge(db: Ovsdb, name: str) -> _Bridge | None:
    columns = ["_uuid", "datapath_type", "ports"]
    (found,) = db.transact(rows("Bridge", ["name", "==", name], columns=columns))
    for row in found["rows"]:
        return _Bridge(
            uuid=row["_uuid"][1],
            datapath=row["datapath_type"],
            ports=ovsdb.uuids(row["ports"]),
        )
    return None


# ADD


def _make(db: Ovsdb, port: Port) -> int:
    """Run the transaction of an ADD; return its configuration number (next_cfg)."""
    try:
        return db.change_as_found(lambda: _operations(db, port))
    except ovsdb.TakenError as error:
        raise CniError(Code.INTERFACE, f"port {port.name} of bridge {port.conf.bridge}: {error.msg}") from error


def _operations(db: Ovsdb, port: Port) -> list[Operation]:
    """Return the operations that create the port, depending on the current bridge."""
    bridge = _bridge(db, port.conf.bridge)
    if bridge is None and not port.conf.create:
        raise CniError(
            Code.DEVICE,
            f'Open vSwitch has no bridge {port.conf.bridge}; expected one, or the key "host.bridge.create" as true',
        )
    if bridge is not None and bridge.datapath != "netdev":
        raise CniError(
            Code.DEVICE,
            f"bridge {port.conf.bridge}: expected datapath_type netdev, got {bridge.datapath or 'system'}",
        )
    operations = [*_bridge_operations(port.conf.bridge, bridge), *_port_operations(port)]
    if port.conf.mirror:
        operations += _mirror_operations(port, port.conf.mirror, _mirror_ports(db, port, port.conf.mirror, bridge))
    return operations


def _bridge_operations(name: str, bridge: _Bridge | None) -> list[Operation]:
    """Return the operations that add the port to the bridge, creating a missing bridge with its local port.

    They fail if the bridge changed meanwhile.
    """
    where = [["name", "==", name]]
    into = mutate("Bridge", where, ["ports", "insert", as_set([named_uuid("port")])])
    if bridge is not None:
        return [ovsdb.wait("Bridge", where, {"_uuid": one(bridge.uuid)}), into]
    return [
        ovsdb.wait("Bridge", where, None),
        insert("Interface", "local_interface", {"name": name, "type": "internal"}),
        insert("Port", "local_port", {"name": name, "interfaces": named_uuid("local_interface")}),
        insert(
            "Bridge",
            "bridge",
            {
                "name": name,
                "datapath_type": "netdev",
                "ports": named_uuid("local_port"),
                "external_ids": as_map(_MADE),
            },
        ),
        mutate("Open_vSwitch", [], ["bridges", "insert", as_set([named_uuid("bridge")])]),
        into,
    ]


def _port_operations(port: Port) -> list[Operation]:
    row: ovsdb.Row = {**_port_row(port), "interfaces": named_uuid("interface"), "external_ids": _ids(port)}
    operations = [
        insert("Interface", "interface", {**_interface_row(port), "external_ids": _ids(port)}),
        insert("Port", "port", row),
    ]
    limits = port.conf.bandwidth
    if limits.ingress_rate:
        row["qos"] = named_uuid("qos")
        policer = {"type": "egress-policer", "other_config": _policer(limits), "external_ids": _ids(port)}
        operations.append(insert("QoS", "qos", policer))
    return operations


def _ids(port: Port) -> list[Any]:
    """Return the external_ids of the port's rows: their owner, and the port's name, by which DEL finds them."""
    return as_map(
        {
            _MARK: port.network,
            f"{_MARK}-port": port.name,
            f"{_MARK}-container": port.container,
            f"{_MARK}-ifname": port.ifname,
        }
    )


def _port_row(port: Port) -> ovsdb.Row:
    return {"name": port.name, **vlan_columns(port.conf.vlan, port.conf.trunk)}


def _interface_row(port: Port) -> ovsdb.Row:
    conf = port.conf
    row: ovsdb.Row = {"name": port.name, "type": _TYPES[conf.role]}
    if conf.role == "client":
        row["options"] = as_map({"vhost-server-path": port.socket})
    if conf.mtu is not None:
        row["mtu_request"] = conf.mtu
    if conf.bandwidth.egress_rate:
        # Egress of the pod is ingress of the switch; in kbit/s and kbit.
        row["ingress_policing_rate"] = max(1, conf.bandwidth.egress_rate // 1000)
        row["ingress_policing_burst"] = _burst(conf.bandwidth.egress_rate, conf.bandwidth.egress_burst) // 1000
    return row


def _policer(limits: Bandwidth) -> list[Any]:
    """Return the options of the policer for traffic to the pod, in bytes per second and bytes."""
    burst = _burst(limits.ingress_rate, limits.ingress_burst)
    return as_map({"cir": str(max(1, limits.ingress_rate // 8)), "cbs": str(burst // 8)})


def _burst(rate: int, burst: int) -> int:
    """Return the burst in bit; the default is what the rate transfers in 0.1 s."""
    return burst or max(_SMALLEST_BURST, rate // 10)


def _mirror_ports(db: Ovsdb, port: Port, mirror: Mirror, bridge: _Bridge | None) -> list[str]:
    """Return the UUIDs of the ports that the mirror names: its output port, or its sources."""
    wanted = [mirror.to] if mirror.to else [] if mirror.sources == ALL else list(mirror.sources)
    found = {}
    if wanted:
        answers = db.transact(*(rows("Port", ["name", "==", name], columns=["_uuid"]) for name in wanted))
        found = {
            name: row["_uuid"][1]
            for name, answer in zip(wanted, answers, strict=True)
            for row in answer["rows"]
            if bridge is not None and row["_uuid"][1] in bridge.ports
        }
    for name in wanted:
        if name not in found:
            raise CniError(Code.DEVICE, f'key "mirror": bridge {port.conf.bridge} has no port {name}')
    return list(found.values())


def _mirror_operations(port: Port, mirror: Mirror, ports: list[str]) -> list[Operation]:
    row: ovsdb.Row = {"name": port.name, "external_ids": _ids(port)}
    if mirror.to:
        sources: Any = named_uuid("port")
        row["output_port"] = one(ports[0])
    else:
        sources = as_set([one(uuid) for uuid in ports])
        row["output_port"] = named_uuid("port")
    if mirror.sources == ALL:
        row["select_all"] = True
    else:
        row |= {"select_src_port": sources} if mirror.into else {}
        row |= {"select_dst_port": sources} if mirror.out else {}
    where = [["name", "==", port.conf.bridge]]
    return [
        insert("Mirror", "mirror", row),
        mutate("Bridge", where, ["mirrors", "insert", as_set([named_uuid("mirror")])]),
    ]


def _move(made: Path, wanted: Path) -> None:
    """Rename the switch's listening socket into the pod's folder; a renamed socket stays connectable."""
    try:
        os.rename(made, wanted)
    except OSError as error:
        raise CniError(
            Code.IO_FAILURE,
            f"socket {made}: moving it to {wanted}: {error.strerror}; expected both in one filesystem, or "
            'the key "host.vhost.mode" as "client"',
        ) from error


# DEL


def _unmake(db: Ovsdb, name: str) -> None:
    """Run the transaction of a DEL, and another one for a bridge that is empty afterwards."""
    mine = ["external_ids", "includes", as_map({f"{_MARK}-port": name})]
    found = db.transact(
        rows("Port", mine, columns=["_uuid"]),
        rows("Mirror", mine, columns=["_uuid"]),
        rows("QoS", mine, columns=["_uuid"]),
        rows("Bridge", columns=["_uuid", "ports", "mirrors", "external_ids"]),
    )
    ports, mirrors = ({row["_uuid"][1] for row in answer["rows"]} for answer in found[:2])
    operations = []
    for row in found[2]["rows"]:
        policed = [["qos", "includes", row["_uuid"]]]
        operations += [ovsdb.update("Port", policed, {"qos": as_set([])}), ovsdb.delete("QoS", row["_uuid"])]
    of = [bridge for bridge in found[3]["rows"] if _holds(bridge, ports, mirrors)]
    operations += [_out_of_bridge(bridge, ports, mirrors) for bridge in of]
    if operations:
        db.transact(*operations, changed())
    if any(_is_ours(bridge) for bridge in of):
        _drop_empty_bridges(db, ["external_ids", "includes", as_map(_MADE)])


def _unmarked(name: str) -> list[Any]:
    """Return the conditions for a port or interface of that name without our marks."""
    return [["name", "==", name], ["external_ids", "excludes", as_map({f"{_MARK}-port": name})]]


def _unmake_unmarked(db: Ovsdb, name: str) -> None:
    """Remove a port that userspace-CNI created, like `_unmake`."""
    found = db.transact(
        rows("Port", *_unmarked(name), columns=["_uuid"]),
        rows("Interface", *_unmarked(name), columns=["type"]),
        rows("Bridge", columns=["_uuid", "ports", *_SETTINGS]),
    )
    if not any(row["type"] in _TYPES.values() for row in found[1]["rows"]):
        return
    ports = {row["_uuid"][1] for row in found[0]["rows"]}
    for bridge in found[2]["rows"]:
        if _holds(bridge, ports, set()):
            db.transact(_out_of_bridge(bridge, ports, set()), changed())
            if all(bridge[column] in _EMPTY for column in _SETTINGS):
                _drop_empty_bridges(db, ["_uuid", "==", bridge["_uuid"]])


def _holds(bridge: ovsdb.Row, ports: set[str], mirrors: set[str]) -> bool:
    return bool(ports & set(ovsdb.uuids(bridge["ports"])) or mirrors & set(ovsdb.uuids(bridge["mirrors"])))


def _is_ours(bridge: ovsdb.Row) -> bool:
    return mapping(bridge["external_ids"]).items() >= _MADE.items()


def _out_of_bridge(bridge: ovsdb.Row, ports: set[str], mirrors: set[str]) -> Operation:
    """Remove ports and mirrors from a bridge; the database deletes rows that are no longer referenced."""
    return mutate(
        "Bridge",
        [["_uuid", "==", bridge["_uuid"]]],
        ["ports", "delete", as_set([one(uuid) for uuid in ports])],
        ["mirrors", "delete", as_set([one(uuid) for uuid in mirrors])],
    )


def _drop_empty_bridges(db: Ovsdb, where: list[Any]) -> None:
    """Remove those bridges of `where` that only have their local port.

    Of concurrent DELs that remove the last ports, the one that commits last sees the empty bridge.
    """
    (found,) = db.transact(rows("Bridge", where, columns=["_uuid", "ports"]))
    for bridge in found["rows"]:
        if len(ovsdb.uuids(bridge["ports"])) > 1:
            continue
        with suppress(ovsdb.WaitedInVainError):  # it got a port meanwhile, or was removed
            db.transact(
                ovsdb.wait("Bridge", [["_uuid", "==", bridge["_uuid"]]], {"ports": bridge["ports"]}),
                mutate("Open_vSwitch", [], ["bridges", "delete", as_set([bridge["_uuid"]])]),
                changed(),
            )
