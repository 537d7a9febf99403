"""Makes a VF's representor a port of an Open vSwitch bridge, and removes it, in one transaction each.

Our ports are marked in external_ids, because Open vSwitch's database survives a reboot and the journal does not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from wirespeed.errors import Error, Kind
from wirespeed.plugins.sriov.conf import BridgePort
from wirespeed.switches import ovsdb
from wirespeed.switches.ovsdb import (
    Operation,
    Ovsdb,
    Row,
    as_map,
    as_set,
    insert,
    mutate,
    named_uuid,
    select_rows,
)

log = logging.getLogger(__name__)

_MARK = "wirespeed-sriov"  # external_ids:wirespeed-sriov=<network> of a port


class Bridges:
    """The bridges of the Open vSwitch whose database is at `remote`.

    Every call raises SwitchDownError if it does not answer before `deadline` (time.monotonic()), and Error if
    it refuses.
    """

    def __init__(self, remote: str) -> None:
        self._remote = remote

    def attach(
        self, representor: str, port: BridgePort, *, network: str, container: str, ifname: str, deadline: float
    ) -> None:
        """Make the representor a port, replacing a port left by an earlier pod; return when the port works."""
        marks = {_MARK: network, f"{_MARK}-container": container, f"{_MARK}-ifname": ifname}
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            configuration = db.change_with_retry(lambda: _operations(db, representor, port, marks))
            db.wait_for_port(representor, configuration)

    def detach(self, container: str, ifname: str, *, deadline: float) -> None:
        """Remove the port that is marked with this container and interface, in any bridge and with any name."""
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            _remove(db, _marked(db, {f"{_MARK}-container": container, f"{_MARK}-ifname": ifname}))

    def sweep(self, network: str, valid: Collection[tuple[str, str]], *, deadline: float) -> None:
        """Remove the network's ports whose (container, interface) is not in `valid`."""
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            lost = [row for row in _marked(db, {_MARK: network}) if _owner(row) not in valid]
            for row in lost:
                log.info("GC of network %s: port %s of container %s", network, row["name"], _owner(row)[0])
            _remove(db, lost)

    def drift(self, representor: str, port: BridgePort, *, deadline: float) -> list[str]:
        """Return how the port differs from what `attach` created, as messages."""
        wanted, interface = _port_columns(port), _interface_columns(port)
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            ports, interfaces, bridges = db.transact(
                select_rows("Port", ["name", "==", representor], columns=["_uuid", *wanted]),
                select_rows("Interface", ["name", "==", representor], columns=["error", *interface]),
                select_rows("Bridge", ["name", "==", port.bridge], columns=["ports"]),
            )
        if not ports["rows"] or not interfaces["rows"]:
            return [f"Open vSwitch has no port {representor}"]
        row, faults = ports["rows"][0], ovsdb.items(interfaces["rows"][0]["error"])
        wrong = ovsdb.differences(row, wanted) + ovsdb.differences(interfaces["rows"][0], interface)
        wrong = [f"port {representor}: {fault}" for fault in [*wrong, *faults]]
        if not any(row["_uuid"] in ovsdb.items(bridge["ports"]) for bridge in bridges["rows"]):
            wrong.append(f"port {representor} is not in bridge {port.bridge}")
        return wrong

    def status(self, *, deadline: float) -> None:
        """Raise Error if no port can be created now."""
        with ovsdb.connected(self._remote, deadline=deadline) as db:
            db.check_switch_runs()


def _operations(db: Ovsdb, representor: str, port: BridgePort, marks: dict[str, str]) -> list[Operation]:
    """Return the operations that create the port; they depend on the existing bridge and port."""
    bridge, by_name = ["name", "==", port.bridge], ["name", "==", representor]
    bridges, ports = db.transact(
        select_rows("Bridge", bridge, columns=["_uuid"]),
        select_rows("Port", by_name, columns=["_uuid", "external_ids"]),
    )
    if not bridges["rows"]:
        raise Error(Kind.DEVICE, f"Open vSwitch has no bridge {port.bridge}", key="bridge", hint="create it")
    there: Row | None = next(iter(ports["rows"]), None)
    if there is not None and _MARK not in ovsdb.mapping(there["external_ids"]):
        what = f"representor {representor} is already a port of Open vSwitch, which another program created"
        raise Error(Kind.INTERFACE, what, key="bridge")
    row = {"name": representor, "external_ids": as_map(marks)}
    return [
        ovsdb.wait("Bridge", [bridge], {"_uuid": bridges["rows"][0]["_uuid"]}),
        ovsdb.wait("Port", [by_name], there and {"_uuid": there["_uuid"]}),
        *([_remove_from_bridge(there["_uuid"])] if there else []),
        insert("Interface", "interface", row | _interface_columns(port)),
        insert("Port", "port", row | _port_columns(port) | {"interfaces": named_uuid("interface")}),
        mutate("Bridge", [bridge], ["ports", "insert", as_set([named_uuid("port")])]),
    ]


def _port_columns(port: BridgePort) -> Row:
    nothing = {"tag": as_set([]), "trunks": as_set([]), "vlan_mode": as_set([])}
    return nothing | ovsdb.vlan_columns(port.vlan, port.trunk)


def _interface_columns(port: BridgePort) -> Row:
    return {"ingress_policing_rate": port.rate * 1000}  # kbit/s; ingress into the switch is what the pod sends


def _marked(db: Ovsdb, ids: dict[str, str]) -> list[Row]:
    columns = ["_uuid", "name", "external_ids"]
    (found,) = db.transact(select_rows("Port", ["external_ids", "includes", as_map(ids)], columns=columns))
    return list(found["rows"])


def _owner(row: Row) -> tuple[str, str]:
    """Return the container and interface for which a port was created."""
    ids = ovsdb.mapping(row["external_ids"])
    return ids.get(f"{_MARK}-container", ""), ids.get(f"{_MARK}-ifname", "")


def _remove(db: Ovsdb, ports: list[Row]) -> None:
    """Remove ports; if ovs-vswitchd runs, wait until it has released their interfaces.

    When ovs-vswitchd releases an interface, it restores the interface's saved flags: an interface that was set down
    before would be set up again.
    """
    if not ports:
        return
    configuration = db.change(*(_remove_from_bridge(row["_uuid"]) for row in ports))
    if db.switch_runs():
        db.wait_until_applied(configuration, f"release port {', '.join(row['name'] for row in ports)}")


def _remove_from_bridge(uuid: list[str]) -> Operation:
    """Remove a port from its bridge; the database deletes rows that are no longer referenced."""
    port = as_set([uuid])
    return mutate("Bridge", [["ports", "includes", port]], ["ports", "delete", port])
