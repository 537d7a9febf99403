"""A client of the Open vSwitch database (RFC 7047): one transaction at a time, each before a deadline."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ovs.jsonrpc
import ovs.stream

from wirespeed.errors import Error, Kind
from wirespeed.switches.switch import ANSWER_TIMEOUT, SwitchDownError, UnreachableError

DATABASE = "Open_vSwitch"
_TIMED_OUT = "timed out"  # the error of a "wait" operation whose condition is not met (RFC 7047, 5.2.6)
_CONSTRAINT = "constraint violation"

Operation = dict[str, Any]
Row = dict[str, Any]


class WaitFailedError(Error):
    """The condition of a `wait` operation was not met in time, so the transaction was not executed."""


class DuplicateRowError(Error):
    """The transaction violates a uniqueness constraint: a row with that name already exists."""


class Ovsdb:
    """An open connection to the database at `remote`. Not shared between threads."""

    def __init__(self, connection: ovs.jsonrpc.Connection, remote: str, deadline: float) -> None:
        self._connection, self._remote, self._deadline = connection, remote, deadline

    def transact(self, *operations: Operation) -> list[Row]:
        """Run a transaction and return the result of each operation; if one fails, none takes effect.

        Raises WaitFailedError, DuplicateRowError, SwitchDownError, or Error if the database refuses it otherwise.
        """
        results = self.call("transact", [DATABASE, *operations])
        for result in results:
            if result and result.get("error"):
                raise _refusal(self._remote, result)
        return [result or {} for result in results]

    def switch_runs(self) -> bool:
        """Whether ovs-vswitchd is connected to the database: while it is, it holds the lock "ovs_vswitchd"."""
        mine = self.call("lock", ["ovs_vswitchd"])["locked"]
        self.call("unlock", ["ovs_vswitchd"])
        return not mine

    def check_switch_runs(self) -> None:
        """Raise SwitchDownError if ovs-vswitchd does not run."""
        if not self.switch_runs():
            raise SwitchDownError("ovs-vswitchd does not run", where=f"Open vSwitch at {self._remote}")

    def change(self, *operations: Operation) -> int:
        """Change the configuration of ovs-vswitchd; return its number (next_cfg) for `wait_until_applied`."""
        results = self.transact(
            *operations, increment_next_cfg(), select_rows("Open_vSwitch", columns=["next_cfg"])
        )
        return int(results[-1]["rows"][0]["next_cfg"])

    def change_with_retry(self, look: Callable[[], Sequence[Operation]]) -> int:
        """Like `change`, but with operations that depend on what `look` finds in the database.

        `look` returns the operations, including `wait` operations that fail if the rows that it read have changed.
        Then `look` is called again. Of several competing clients, one always succeeds; the connection's deadline
        ends the retries.
        """
        while True:
            with suppress(WaitFailedError):
                return self.change(*look())

    def wait_until_applied(self, configuration: int, what: str, *then: Operation) -> list[Row]:
        """Wait until ovs-vswitchd has applied a configuration; return the results of the operations `then`.

        Raises SwitchDownError, which says `what` was not done in time.
        """
        # Less than our own deadline, so that the database reports the timeout.
        patience = _ms_until(self._deadline) * 9 // 10
        done = wait("Open_vSwitch", [["cur_cfg", "<", configuration]], None, timeout=patience)
        try:
            return self.transact(done, *then)[1:]
        except WaitFailedError as error:
            where = f"Open vSwitch at {self._remote}"
            raise SwitchDownError(f"ovs-vswitchd did not {what} in time", where=where) from error

    def wait_for_port(self, port: str, configuration: int) -> int:
        """Wait until ovs-vswitchd has applied a configuration; return the OpenFlow port number of `port`.

        Raises SwitchDownError if it is not applied in time, Error(DEVICE) with the error of the port.
        """
        interface = select_rows("Interface", ["name", "==", port], columns=["ofport", "error"])
        (found,) = self.wait_until_applied(configuration, f"create port {port}", interface)
        row = found["rows"][0]
        ofport = next(iter(items(row["ofport"])), -1)
        if ofport < 0:
            reason = next(iter(items(row["error"])), "see the log of ovs-vswitchd")
            raise Error(Kind.DEVICE, f"Open vSwitch cannot create port {port}: {reason}")
        return int(ofport)

    def call(self, method: str, params: list[Any]) -> Any:
        """Return the result of a JSON-RPC method (RFC 7047, 4.1). Raises SwitchDownError, Error."""
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
                raise Error(Kind.INTERNAL, str(message.error), where=_place(self._remote))
            elif message.id == request.id:
                return message.result

    def _wait(self) -> None:
        """Wait until the connection is ready. Raises SwitchDownError at the deadline."""
        if not (left := _ms_until(self._deadline)):
            raise SwitchDownError("no answer in time", where=_place(self._remote))
        self._connection.run()
        # Not the library's own poller: it uses select(2), which fails for descriptors above 1023.
        poller = select.poll()
        backlog = select.POLLOUT if self._connection.get_backlog() else 0
        poller.register(self._connection.stream.socket, select.POLLIN | backlog)
        poller.poll(left)

    def _check(self, error: int) -> None:
        if error:
            raise SwitchDownError(_text(error), where=_place(self._remote))


@contextmanager
def connected(remote: str, *, deadline: float) -> Iterator[Ovsdb]:
    """Connect to the database at `remote` ("unix:/run/openvswitch/db.sock", "tcp:127.0.0.1:6640").

    The connection may last until `deadline` (time.monotonic()), at most ANSWER_TIMEOUT seconds. Raises
    UnreachableError if the database cannot be reached.
    """
    deadline = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), _ms_until(deadline))
    if error:
        raise UnreachableError(_text(error), where=_place(remote))
    connection = ovs.jsonrpc.Connection(stream)
    try:
        yield Ovsdb(connection, remote, deadline)
    finally:
        connection.close()


def _ms_until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))


def _refusal(remote: str, result: Row) -> Error:
    what, where = f"{result['error']}: {result.get('details') or 'no details'}", _place(remote)
    if result["error"] == _TIMED_OUT:
        return WaitFailedError(Kind.TRY_AGAIN, what, where=where)
    if result["error"] == _CONSTRAINT:
        return DuplicateRowError(Kind.TRY_AGAIN, what, where=where)
    return Error(Kind.INTERNAL, what, where=where)


def _place(remote: str) -> str:
    return f"Open vSwitch database {remote}"


def _text(error: int) -> str:
    return "it closed the connection" if error == ovs.jsonrpc.EOF else os.strerror(error)


# Operations (RFC 7047, 5.2) and their notation of values (5.1)


def select_rows(table: str, *where: Any, columns: list[str]) -> Operation:
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


def increment_next_cfg() -> Operation:
    """Increment next_cfg: ovs-vswitchd sets cur_cfg to the same number when it has applied the transaction."""
    return mutate("Open_vSwitch", [], ["next_cfg", "+=", 1])


def named_uuid(name: str) -> list[str]:
    return ["named-uuid", name]


def as_set(values: list[Any]) -> list[Any]:
    return ["set", values]


def as_map(values: dict[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def items(value: Any) -> list[Any]:
    """Return the elements of a set column; a set of one element is written as that element alone."""
    if isinstance(value, list) and value and value[0] == "set":
        return list(value[1])
    return [value]


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


# Comparing a row with the wanted one


def differences(row: Row, wanted: Row) -> list[str]:
    """List the columns that differ from the wanted ones: "tag is 5, expected 100"."""
    return [
        f"{column} is {_format_value(row[column])}, expected {_format_value(value)}"
        for column, value in wanted.items()
        if _comparable(row[column]) != _comparable(value)
    ]


def _comparable(value: Any) -> Any:
    """Return a value in a comparable form, independent of the order of sets and maps."""
    if isinstance(value, list) and value and value[0] in {"set", "map"}:
        plain = sorted(map(str, value[1]))
        return plain[0] if value[0] == "set" and len(plain) == 1 else plain
    return str(value)


def _format_value(value: Any) -> str:
    if isinstance(value, list) and value and value[0] == "map":
        return " ".join(f"{key}={entry}" for key, entry in value[1]) or "empty"
    return ", ".join(map(str, items(value))) or "empty"
