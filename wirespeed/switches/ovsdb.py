"""A client of the Open vSwitch database (RFC 7047): one transaction at a time, each before a deadline."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ovs.jsonrpc
import ovs.stream

from wirespeed.cni.errors import CniError, Code
from wirespeed.switches.switch import ANSWER_AT_MOST, SwitchDownError, UnreachedError

DATABASE = "Open_vSwitch"
_TIMED_OUT = "timed out"  # the error of a "wait" operation whose condition is not met (RFC 7047, 5.2.6)
_CONSTRAINT = "constraint violation"

Operation = dict[str, Any]
Row = dict[str, Any]


class WaitedInVainError(CniError):
    """The condition of a `wait` operation was not met in time, so the transaction was not made."""


class TakenError(CniError):
    """A row that must be unique exists already."""


class Ovsdb:
    """An open connection to the database at `remote`. Not shared between threads."""

    def __init__(self, connection: ovs.jsonrpc.Connection, remote: str, deadline: float) -> None:
        self._connection, self._remote, self._deadline = connection, remote, deadline

    def transact(self, *operations: Operation) -> list[Row]:
        """Run a transaction and return the result of each operation; if one fails, none takes effect.

        Raises WaitedInVainError, TakenError, SwitchDownError, or CniError if the database refuses it otherwise.
        """
        results = self._call("transact", [DATABASE, *operations])
        for result in results:
            if result and result.get("error"):
                raise _refusal(self._remote, result)
        return [result or {} for result in results]

    def switch_runs(self) -> bool:
        """Whether ovs-vswitchd is connected to the database: while it is, it holds the lock "ovs_vswitchd"."""
        mine = self._call("lock", ["ovs_vswitchd"])["locked"]
        self._call("unlock", ["ovs_vswitchd"])
        return not mine

    def check_switch_runs(self) -> None:
        """Raise SwitchDownError if ovs-vswitchd does not run."""
        if not self.switch_runs():
            raise SwitchDownError(f"Open vSwitch at {self._remote}: ovs-vswitchd does not run")

    def change(self, *operations: Operation) -> int:
        """Change the configuration of ovs-vswitchd; return its new number (next_cfg), which `wait_done` takes.

        Raises the same errors as `transact`.
        """
        results = self.transact(*operations, changed(), rows("Open_vSwitch", columns=["next_cfg"]))
        return int(results[-1]["rows"][0]["next_cfg"])

    def change_as_found(self, look: Callable[[], Sequence[Operation]]) -> int:
        """Like `change`, but with operations that depend on what `look` finds in the database.

        `look` returns the operations, including `wait` operations that check that what it found is unchanged. If
        another client changed it in between, `look` is called anew. Of competing clients one always succeeds; the
        deadline of the connection ends the retries.
        """
        while True:
            try:
                return self.change(*look())
            except WaitedInVainError:
                continue

    def wait_done(self, configuration: int, what: str, *then: Operation) -> list[Row]:
        """Wait until ovs-vswitchd has applied a configuration; return the results of the operations `then`.

        `what` describes the change, for the error message. Raises SwitchDownError if it is not applied in time.
        """
        patience = self.left() * 9 // 10  # so that the database reports the timeout before our own deadline
        done = wait("Open_vSwitch", [["cur_cfg", "<", configuration]], None, timeout=patience)
        try:
            return self.transact(done, *then)[1:]
        except WaitedInVainError as error:
            raise SwitchDownError(f"Open vSwitch at {self._remote}: ovs-vswitchd did not {what} in time") from error

    def taken_up(self, port: str, configuration: int) -> int:
        """Wait until ovs-vswitchd has applied a configuration; return the OpenFlow number of a port in it.

        Raises SwitchDownError if it is not applied in time, CniError(DEVICE) with the error of the port.
        """
        interface = rows("Interface", ["name", "==", port], columns=["ofport", "error"])
        (found,) = self.wait_done(configuration, f"take up port {port}", interface)
        row = found["rows"][0]
        ofport = next(iter(items(row["ofport"])), -1)
        if ofport < 0:
            why = next(iter(items(row["error"])), "the log of ovs-vswitchd says why")
            raise CniError(Code.DEVICE, f"Open vSwitch cannot make port {port}: {why}")
        return int(ofport)

    def left(self) -> int:
        """Milliseconds until the deadline."""
        return _until(self._deadline)

    def _call(self, method: str, params: list[Any]) -> Any:
        request = ovs.jsonrpc.Message.create_request(method, params)
        self._check(self._connection.send(request))
        while True:
            error, message = self._connection.recv()
            if error == errno.EAGAIN:
                self._wait()
                continue
            self._check(error)
            if message.type == ovs.jsonrpc.Message.T_REQUEST and message.method == "echo":
                self._check(self._connection.send(ovs.jsonrpc.Message.create_reply(message.params, message.id)))
            elif message.id == request.id and message.type == ovs.jsonrpc.Message.T_ERROR:
                raise CniError(Code.INTERNAL, f"Open vSwitch database {self._remote}: {message.error}")
            elif message.id == request.id:
                return message.result

    def _wait(self) -> None:
        """Wait until the connection is ready. Raises SwitchDownError at the deadline."""
        if not self.left():
            raise SwitchDownError(f"Open vSwitch database {self._remote}: no answer in time")
        self._connection.run()
        # Not the library's own poller: it uses select(2), which fails for descriptors above 1023.
        poller = select.poll()
        backlog = select.POLLOUT if self._connection.get_backlog() else 0
        poller.register(self._connection.stream.socket, select.POLLIN | backlog)
        poller.poll(self.left())

    def _check(self, error: int) -> None:
        if error:
            raise SwitchDownError(f"Open vSwitch database {self._remote}: {_text(error)}")


@contextmanager
def connected(remote: str, *, deadline: float) -> Iterator[Ovsdb]:
    """Connect to the database at `remote` ("unix:/run/openvswitch/db.sock", "tcp:127.0.0.1:6640").

    The connection may last until `deadline` (time.monotonic()), at most ANSWER_AT_MOST seconds. Raises
    UnreachedError if the database cannot be reached.
    """
    deadline = min(deadline, time.monotonic() + ANSWER_AT_MOST)
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), _until(deadline))
    if error:
        raise UnreachedError(f"Open vSwitch database {remote}: {_text(error)}")
    connection = ovs.jsonrpc.Connection(stream)
    try:
        yield Ovsdb(connection, remote, deadline)
    finally:
        connection.close()


def _until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))


def _refusal(remote: str, result: Row) -> CniError:
    what = f"Open vSwitch database {remote}: {result['error']}: {result.get('details') or 'no details'}"
    if result["error"] == _TIMED_OUT:
        return WaitedInVainError(Code.TRY_AGAIN_LATER, what)
    if result["error"] == _CONSTRAINT:
        return TakenError(Code.TRY_AGAIN_LATER, what)
    return CniError(Code.INTERNAL, what)


def _text(error: int) -> str:
    return "it closed the connection" if error == ovs.jsonrpc.EOF else os.strerror(error)


# Operations (RFC 7047, 5.2) and their notation of values (5.1)


def rows(table: str, *where: Any, columns: list[str]) -> Operation:
    return {"op": "select", "table": table, "where": list(where), "columns": columns}


def insert(table: str, name: str, row: Row) -> Operation:
    """Insert a row; other operations of the transaction refer to it by `named_uuid(name)`."""
    return {"op": "insert", "table": table, "uuid-name": name, "row": row}


def mutate(table: str, where: list[Any], *mutations: Any) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": list(mutations)}


def update(table: str, where: list[Any], row: Row) -> Operation:
    return {"op": "update", "table": table, "where": where, "row": row}


def delete(table: str, uuid: list[str]) -> Operation:
    """Delete a row of a root table; the database itself deletes unreferenced rows of the other tables."""
    return {"op": "delete", "table": table, "where": [["_uuid", "==", uuid]]}


def wait(table: str, where: list[Any], row: Row | None, *, timeout: int = 0) -> Operation:
    """Continue only if the rows that match `where` are exactly one equal to `row`, or none if `row` is None.

    The database waits for that up to `timeout` milliseconds, then fails the transaction.
    """
    return {
        "op": "wait",
        "table": table,
        "where": where,
        "columns": list(row or {"_uuid": None}),
        "until": "==",
        "rows": [] if row is None else [row],
        "timeout": timeout,
    }


def changed() -> Operation:
    """Increment next_cfg: ovs-vswitchd sets cur_cfg to the same number when it has applied the transaction."""
    return mutate("Open_vSwitch", [], ["next_cfg", "+=", 1])


def named_uuid(name: str) -> list[str]:
    return ["named-uuid", name]


def one(uuid: str) -> list[str]:
    return ["uuid", uuid]


def as_set(values: list[Any]) -> list[Any]:
    return ["set", values]


def as_map(values: dict[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def items(value: Any) -> list[Any]:
    """Return the elements of a set column; a set of one element is written as that element alone."""
    if isinstance(value, list) and value and value[0] == "set":
        return list(value[1])
    return [value]


def uuids(value: Any) -> list[str]:
    """Return the UUIDs of a column of references."""
    return [each[1] for each in items(value)]


def mapping(value: Any) -> dict[str, str]:
    """Return the value of a map column."""
    return dict(value[1])


def vlan_columns(vlan: int | None, trunk: Sequence[int]) -> Row:
    """Return the columns of a Port with the untagged VLAN `vlan` (None: no VLAN) and the tagged VLANs `trunk`."""
    row: Row = {} if vlan is None else {"tag": vlan}
    if trunk:
        row["trunks"] = trunk[0] if len(trunk) == 1 else as_set(list(trunk))
        row["vlan_mode"] = "trunk" if vlan is None else "native-untagged"
    return row


# Comparing a row with what it should be


def differences(row: Row, wanted: Row) -> list[str]:
    """List the columns that differ from the wanted ones: "tag is 5, expected 100"."""
    return [
        f"{column} is {_shown(row[column])}, expected {_shown(value)}"
        for column, value in wanted.items()
        if _plain(row[column]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """Return a value in a comparable form, independent of the order of sets and maps."""
    if isinstance(value, list) and value and value[0] in {"set", "map"}:
        plain = sorted(map(str, value[1]))
        return plain[0] if value[0] == "set" and len(plain) == 1 else plain
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and value[0] == "map":
        return " ".join(f"{key}={entry}" for key, entry in value[1]) or "empty"
    return ", ".join(map(str, items(value))) or "empty"
