"""A conversation with an Open vSwitch database (RFC 7047): one transaction at a time, each before a deadline."""

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
from wirespeed.host.switches import ANSWER_AT_MOST, SwitchDownError, UnreachedError

DATABASE = "Open_vSwitch"
_TIMED_OUT = "timed out"  # the error of a "wait" operation whose condition is not met (RFC 7047, 5.2.6)
_CONSTRAINT = "constraint violation"

Operation = dict[str, Any]
Row = dict[str, Any]


class WaitedInVainError(CniError):
    """A `wait` operation was not met: the database is not, or not in time, as the transaction needs it."""


class TakenError(CniError):
    """A row that must be unique is there already."""


class Ovsdb:
    """The open conversation with the database at `remote`; for one thread."""

    def __init__(self, connection: ovs.jsonrpc.Connection, remote: str, deadline: float) -> None:
        self._connection, self._remote, self._deadline = connection, remote, deadline

    def transact(self, *operations: Operation) -> list[Row]:
        """The result of each operation; none has taken effect when one fails.

        Raises WaitedInVainError, TakenError, SwitchDownError, or CniError for what else the database refuses.
        """
        results = self._call("transact", [DATABASE, *operations])
        for result in results:
            if result and result.get("error"):
                raise _refusal(self._remote, result)
        return [result or {} for result in results]

    def switch_runs(self) -> bool:
        """Whether ovs-vswitchd is connected to the database: it holds the lock of its name all that time."""
        mine = self._call("lock", ["ovs_vswitchd"])["locked"]
        self._call("unlock", ["ovs_vswitchd"])
        return not mine

    def check_switch_runs(self) -> None:
        """Raise SwitchDownError when it does not."""
        if not self.switch_runs():
            raise SwitchDownError(f"Open vSwitch at {self._remote}: ovs-vswitchd does not run")

    def change(self, *operations: Operation) -> int:
        """Change what ovs-vswitchd has to take up; the number of the configuration (next_cfg) that has it.

        Raises as `transact`.
        """
        results = self.transact(*operations, changed(), rows("Open_vSwitch", columns=["next_cfg"]))
        return int(results[-1]["rows"][0]["next_cfg"])

    def change_as_found(self, look: Callable[[], Sequence[Operation]]) -> int:
        """As `change`, of what is decided by a look at the database, and waits for that to be so still.

        It is looked and made anew when another has changed it meanwhile: of those who meet one always gets through,
        and the deadline of the conversation ends it.
        """
        while True:
            try:
                return self.change(*look())
            except WaitedInVainError:
                continue

    def wait_done(self, configuration: int, what: str, *then: Operation) -> list[Row]:
        """Until ovs-vswitchd has done `what`, which that configuration asks for; then the results of `then`.

        Raises SwitchDownError when it does not in time.
        """
        patience = self.left() * 9 // 10  # the database says so before we give up its answer
        done = wait("Open_vSwitch", [["cur_cfg", "<", configuration]], None, timeout=patience)
        try:
            return self.transact(done, *then)[1:]
        except WaitedInVainError as error:
            raise SwitchDownError(f"Open vSwitch at {self._remote}: ovs-vswitchd did not {what} in time") from error

    def taken_up(self, port: str, configuration: int) -> int:
        """The OpenFlow number of a port, once ovs-vswitchd has done what that configuration asks for.

        Raises SwitchDownError when it does not in time, CniError(DEVICE) with what it says of the port.
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
        """Until the connection can go on."""
        if not self.left():
            raise SwitchDownError(f"Open vSwitch database {self._remote}: no answer in time")
        self._connection.run()
        # Not the library's own poller: it is select(2), which knows 1024 files, and an agent may have more.
        poller = select.poll()
        backlog = select.POLLOUT if self._connection.get_backlog() else 0
        poller.register(self._connection.stream.socket, select.POLLIN | backlog)
        poller.poll(self.left())

    def _check(self, error: int) -> None:
        if error:
            raise SwitchDownError(f"Open vSwitch database {self._remote}: {_text(error)}")


@contextmanager
def connected(remote: str, *, deadline: float) -> Iterator[Ovsdb]:
    """Talk with the database at `remote` ("unix:/run/openvswitch/db.sock", "tcp:127.0.0.1:6640").

    Raises UnreachedError when it cannot be reached.
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
    """A new row that the other operations of the transaction can call `named(name)`."""
    return {"op": "insert", "table": table, "uuid-name": name, "row": row}


def mutate(table: str, where: list[Any], *mutations: Any) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": list(mutations)}


def update(table: str, where: list[Any], row: Row) -> Operation:
    return {"op": "update", "table": table, "where": where, "row": row}


def delete(table: str, uuid: list[str]) -> Operation:
    """Delete a row of a table whose rows do not go by themselves when nothing refers to them."""
    return {"op": "delete", "table": table, "where": [["_uuid", "==", uuid]]}


def wait(table: str, where: list[Any], row: Row | None, *, timeout: int = 0) -> Operation:
    """Go on only when the rows of `where` are exactly one like `row`, or none; waits for it up to `timeout` ms."""
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
    """Have ovs-vswitchd say in cur_cfg when it has done what the transaction asks for."""
    return mutate("Open_vSwitch", [], ["next_cfg", "+=", 1])


def named(name: str) -> list[str]:
    return ["named-uuid", name]


def one(uuid: str) -> list[str]:
    return ["uuid", uuid]


def as_set(values: list[Any]) -> list[Any]:
    return ["set", values]


def as_map(values: dict[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def items(value: Any) -> list[Any]:
    """The elements of a column that is a set: one alone is written without the set."""
    if isinstance(value, list) and value and value[0] == "set":
        return list(value[1])
    return [value]


def uuids(value: Any) -> list[str]:
    """The uuids of a column of references."""
    return [each[1] for each in items(value)]


def mapping(value: Any) -> dict[str, str]:
    """A column that is a map."""
    return dict(value[1])


def vlan_columns(vlan: int | None, trunk: Sequence[int]) -> Row:
    """The columns of a Port that has one VLAN untagged (None: has not) and others tagged."""
    row: Row = {} if vlan is None else {"tag": vlan}
    if trunk:
        row["trunks"] = trunk[0] if len(trunk) == 1 else as_set(list(trunk))
        row["vlan_mode"] = "trunk" if vlan is None else "native-untagged"
    return row


# What a row is, beside what it should be


def differences(row: Row, wanted: Row) -> list[str]:
    """The columns that are not as they are wanted: "tag is 5, expected 100"."""
    return [
        f"{column} is {_shown(row[column])}, expected {_shown(value)}"
        for column, value in wanted.items()
        if _plain(row[column]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """A value in a form that compares: sets and maps have no order."""
    if isinstance(value, list) and value and value[0] in {"set", "map"}:
        plain = sorted(map(str, value[1]))
        return plain[0] if value[0] == "set" and len(plain) == 1 else plain
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and value[0] == "map":
        return " ".join(f"{key}={entry}" for key, entry in value[1]) or "empty"
    return ", ".join(map(str, items(value))) or "empty"
