"""Open vSwitch with DPDK: manages vhost-user ports in its database, with one transaction per ADD and per DEL.

Our rows are marked in external_ids, because the database survives a reboot and the journal does not.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.conf import MirrorKeys, VhostConf
from wirespeed.plugins.vhost.engine import Engine, ExistingPort, Port, no_bridge
from wirespeed.switches import ovsdb
from wirespeed.switches.ovsdb import (
    Operation,
    Ovsdb,
    as_map,
    as_set,
    differences,
    increment_next_cfg,
    insert,
    items,
    mapping,
    mutate,
    named_uuid,
    select_rows,
    vlan_columns,
)

_MARK = "wirespeed"  # external_ids:wirespeed=<network> of a port, QoS or mirror
_CREATED_BY_US = {f"{_MARK}-made": "bridge"}  # external_ids of a bridge that we created
# Columns of a bridge that are empty if only userspace-CNI uses it.
_SETTINGS = ("external_ids", "other_config", "controller", "fail_mode", "netflow", "sflow", "ipfix", "mirrors")
_EMPTY = (["set", []], ["map", []])
_TYPES = {"client": "dpdkvhostuserclient", "server": "dpdkvhostuser"}
_SMALLEST_BURST = 8 * 65536  # bit; a burst smaller than a frame would drop everything


class Ovs(Engine):
    """Open vSwitch with its database at `remote`; it creates its listening sockets in `rundir`."""

    def __init__(self, remote: str, rundir: Path) -> None:
        self._remote, self._rundir = remote, rundir

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            sockets = self._check_switch(db, port.conf)
            try:
                configuration = db.change_with_retry(lambda: _operations(db, port))
            except ovsdb.DuplicateRowError as error:
                where = f"port {port.name} of bridge {port.conf.bridge}"
                raise error.of_kind(Kind.INTERFACE).within(where) from error
            ofport = db.wait_for_port(port.name, configuration)
            if port.conf.role == "server":
                _move_socket(sockets / port.name, Path(port.socket))
        return {"ofport": ofport, "type": _TYPES[port.conf.role]}

    def remove(self, port: ExistingPort, *, deadline: float) -> None:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            delete = _delete_port if port.marked else _delete_unmarked_port
            delete(db, port.name)

    def socket_of(self, name: str, *, deadline: float) -> str:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            (found,) = db.transact(select_rows("Interface", *_unmarked(name), columns=["options"]))
        return next((mapping(row["options"]).get("vhost-server-path", "") for row in found["rows"]), "")

    def drift(self, port: Port, *, deadline: float) -> list[str]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            ports, interfaces, bridges = db.transact(
                select_rows("Port", ["name", "==", port.name], columns=["_uuid", *_port_row(port)]),
                select_rows(
                    "Interface", ["name", "==", port.name], columns=[*_interface_row(port), "error", "ofport"]
                ),
                select_rows("Bridge", ["name", "==", port.conf.bridge], columns=["ports"]),
            )
        if not ports["rows"] or not interfaces["rows"]:
            return [f"Open vSwitch has no port {port.name}"]
        row, interface = ports["rows"][0], interfaces["rows"][0]
        wrong = [f"port {port.name}: {fault}" for fault in differences(row, _port_row(port))]
        wrong += [f"interface {port.name}: {fault}" for fault in differences(interface, _interface_row(port))]
        if not any(row["_uuid"] in items(bridge["ports"]) for bridge in bridges["rows"]):
            wrong.append(f"port {port.name} is not in bridge {port.conf.bridge}")
        wrong += [f"interface {port.name}: {error}" for error in items(interface["error"]) if error]
        return wrong

    def own_ports(self, network: str, *, deadline: float) -> list[ExistingPort]:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            mark = ["external_ids", "includes", as_map({_MARK: network})]
            (found,) = db.transact(select_rows("Port", mark, columns=["name"]))
        return [ExistingPort(name=row["name"]) for row in found["rows"]]

    def status(self, *, deadline: float) -> None:
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            (found,) = db.transact(select_rows("Open_vSwitch", columns=["dpdk_initialized"]))
            db.check_switch_runs()
            _check_dpdk(found)

    def _check_switch(self, db: Ovsdb, conf: VhostConf) -> Path:
        """Return the folder of the switch's sockets. Raises Error if the switch cannot create such a port."""
        (found,) = db.transact(
            select_rows("Open_vSwitch", columns=["dpdk_initialized", "iface_types", "other_config"])
        )
        _check_dpdk(found)
        kind = _TYPES[conf.role]
        if kind not in items(found["rows"][0]["iface_types"]):
            where = f"Open vSwitch at {self._remote}"
            raise Error(Kind.UNAVAILABLE, f"it has no interfaces of type {kind}", where=where)
        return self._rundir / mapping(found["rows"][0]["other_config"]).get("vhost-sock-dir", "")


def _check_dpdk(found: ovsdb.Row) -> None:
    if not found["rows"] or not found["rows"][0]["dpdk_initialized"]:
        expected = "other_config:dpdk-init=true and hugepages"
        raise Error(Kind.UNAVAILABLE, "Open vSwitch runs without DPDK", expected=expected)


# ADD


def _operations(db: Ovsdb, port: Port) -> list[Operation]:
    """Return the operations that create the port, depending on the current bridge."""
    columns = ["_uuid", "datapath_type", "ports"]
    (found,) = db.transact(select_rows("Bridge", ["name", "==", port.conf.bridge], columns=columns))
    bridge = next(iter(found["rows"]), None)
    if bridge is None and not port.conf.create:
        raise no_bridge(f"Open vSwitch has no bridge {port.conf.bridge}")
    if bridge is not None and bridge["datapath_type"] != "netdev":
        where, got = f"bridge {port.conf.bridge}", bridge["datapath_type"] or "system"
        raise Error(Kind.DEVICE, where=where, expected="datapath_type netdev", got=got)
    operations = [*_bridge_operations(port.conf.bridge, bridge), *_port_operations(port)]
    if port.conf.mirror:
        operations += _mirror_operations(port, port.conf.mirror, _mirror_ports(db, port, port.conf.mirror, bridge))
    return operations


def _bridge_operations(name: str, bridge: ovsdb.Row | None) -> list[Operation]:
    """Return the operations that add the port to the bridge, creating a missing bridge with its local port.

    They fail if the bridge changed meanwhile.
    """
    where = [["name", "==", name]]
    into = mutate("Bridge", where, ["ports", "insert", as_set([named_uuid("port")])])
    if bridge is not None:
        return [ovsdb.wait("Bridge", where, {"_uuid": bridge["_uuid"]}), into]
    row = {"name": name, "datapath_type": "netdev", "ports": named_uuid("local_port")}
    return [
        ovsdb.wait("Bridge", where, None),
        insert("Interface", "local_interface", {"name": name, "type": "internal"}),
        insert("Port", "local_port", {"name": name, "interfaces": named_uuid("local_interface")}),
        insert("Bridge", "bridge", row | {"external_ids": as_map(_CREATED_BY_US)}),
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
    if rate := limits.ingress_rate:  # what the pod receives; in bytes per second and bytes
        row["qos"] = named_uuid("qos")
        policer = {"cir": str(max(1, rate // 8)), "cbs": str(_burst(rate, limits.ingress_burst) // 8)}
        qos = {"type": "egress-policer", "other_config": as_map(policer), "external_ids": _ids(port)}
        operations.append(insert("QoS", "qos", qos))
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
    if rate := conf.bandwidth.egress_rate:
        # Egress of the pod is ingress of the switch; in kbit/s and kbit.
        row["ingress_policing_rate"] = max(1, rate // 1000)
        row["ingress_policing_burst"] = _burst(rate, conf.bandwidth.egress_burst) // 1000
    return row


def _burst(rate: int, burst: int | None) -> int:
    """Return the burst in bit; the default is what the rate transfers in 0.1 s."""
    return burst or max(_SMALLEST_BURST, rate // 10)


def _mirror_ports(db: Ovsdb, port: Port, mirror: MirrorKeys, bridge: ovsdb.Row | None) -> list[Any]:
    """Return the ports that the mirror names: its output port, or its sources."""
    names = [mirror.to] if mirror.to else [] if mirror.source == "all" else list(dict.fromkeys(mirror.source or ()))
    selects = [select_rows("Port", ["name", "==", name], columns=["_uuid"]) for name in names]
    ports = []
    for name, found in zip(names, db.transact(*selects) if selects else [], strict=True):
        there = [row["_uuid"] for row in found["rows"] if bridge and row["_uuid"] in items(bridge["ports"])]
        if not there:
            raise Error(Kind.DEVICE, f"bridge {port.conf.bridge} has no port {name}", key="mirror")
        ports += there
    return ports


def _mirror_operations(port: Port, mirror: MirrorKeys, ports: list[Any]) -> list[Operation]:
    mine = named_uuid("port")
    output, sources = (ports[0], mine) if mirror.to else (mine, as_set(ports))
    row: ovsdb.Row = {"name": port.name, "external_ids": _ids(port), "output_port": output}
    if mirror.source == "all":
        row["select_all"] = True
    else:
        row |= {"select_src_port": sources} if mirror.direction != "out" else {}
        row |= {"select_dst_port": sources} if mirror.direction != "in" else {}
    where = [["name", "==", port.conf.bridge]]
    return [
        insert("Mirror", "mirror", row),
        mutate("Bridge", where, ["mirrors", "insert", as_set([named_uuid("mirror")])]),
    ]


def _move_socket(path: Path, wanted: Path) -> None:
    """Rename the switch's listening socket into the pod's folder; a renamed socket stays connectable."""
    try:
        os.rename(path, wanted)
    except OSError as error:
        raise Error(
            Kind.IO,
            f"moving it to {wanted}: {error.strerror}",
            where=f"socket {path}",
            hint='have both in one filesystem, or set the key "host.vhost.mode" to "client"',
        ) from error


# DEL


def _delete_port(db: Ovsdb, name: str) -> None:
    """Run the transaction of a DEL, and another one for a bridge that is empty afterwards."""
    mine = ["external_ids", "includes", as_map({f"{_MARK}-port": name})]
    found = db.transact(
        select_rows("Port", mine, columns=["_uuid"]),
        select_rows("Mirror", mine, columns=["_uuid"]),
        select_rows("QoS", mine, columns=["_uuid"]),
        select_rows("Bridge", columns=["_uuid", "ports", "mirrors", "external_ids"]),
    )
    ports, mirrors = ([row["_uuid"] for row in answer["rows"]] for answer in found[:2])
    operations = []
    for row in found[2]["rows"]:
        policed = [["qos", "includes", row["_uuid"]]]
        operations += [ovsdb.update("Port", policed, {"qos": as_set([])}), ovsdb.delete("QoS", row["_uuid"])]
    of = [bridge for bridge in found[3]["rows"] if _has_any(bridge, ports, mirrors)]
    operations += [_remove_from_bridge(bridge, ports, mirrors) for bridge in of]
    if operations:
        db.transact(*operations, increment_next_cfg())
    if any(mapping(bridge["external_ids"]).items() >= _CREATED_BY_US.items() for bridge in of):
        _remove_empty_bridges(db, ["external_ids", "includes", as_map(_CREATED_BY_US)])


def _unmarked(name: str) -> list[Any]:
    """Return the conditions for a port or interface of that name without our marks."""
    return [["name", "==", name], ["external_ids", "excludes", as_map({f"{_MARK}-port": name})]]


def _delete_unmarked_port(db: Ovsdb, name: str) -> None:
    """Remove a port that userspace-CNI created, like `_delete_port`."""
    found = db.transact(
        select_rows("Port", *_unmarked(name), columns=["_uuid"]),
        select_rows("Interface", *_unmarked(name), columns=["type"]),
        select_rows("Bridge", columns=["_uuid", "ports", *_SETTINGS]),
    )
    if not any(row["type"] in _TYPES.values() for row in found[1]["rows"]):
        return
    ports = [row["_uuid"] for row in found[0]["rows"]]
    for bridge in found[2]["rows"]:
        if _has_any(bridge, ports, []):
            db.transact(_remove_from_bridge(bridge, ports, []), increment_next_cfg())
            if all(bridge[column] in _EMPTY for column in _SETTINGS):
                _remove_empty_bridges(db, ["_uuid", "==", bridge["_uuid"]])


def _has_any(bridge: ovsdb.Row, ports: list[Any], mirrors: list[Any]) -> bool:
    own = (*items(bridge["ports"]), *items(bridge["mirrors"]))
    return any(each in own for each in (*ports, *mirrors))


def _remove_from_bridge(bridge: ovsdb.Row, ports: list[Any], mirrors: list[Any]) -> Operation:
    """Remove ports and mirrors from a bridge; the database deletes rows that are no longer referenced."""
    return mutate(
        "Bridge",
        [["_uuid", "==", bridge["_uuid"]]],
        ["ports", "delete", as_set(ports)],
        ["mirrors", "delete", as_set(mirrors)],
    )


def _remove_empty_bridges(db: Ovsdb, where: list[Any]) -> None:
    """Remove those bridges of `where` that only have their local port.

    Of concurrent DELs that remove the last ports, the one that commits last sees the empty bridge.
    """
    (found,) = db.transact(select_rows("Bridge", where, columns=["_uuid", "ports"]))
    for bridge in found["rows"]:
        if len(items(bridge["ports"])) > 1:
            continue
        with suppress(ovsdb.WaitFailedError):  # it got a port meanwhile, or was removed
            db.transact(
                ovsdb.wait("Bridge", [["_uuid", "==", bridge["_uuid"]]], {"ports": bridge["ports"]}),
                mutate("Open_vSwitch", [], ["bridges", "delete", as_set([bridge["_uuid"]])]),
                increment_next_cfg(),
            )
