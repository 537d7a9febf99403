"""A fake of VPP's binary API: its framing, and the messages that the VPP engine uses.

Written after VPP 26.06 (vlibmemory/memclnt.api and socket_api.c for the framing; memif.c, vhost_user.c, l2_bd.c and
interface.c for the errors). Names, CRCs and fields are listed here independently of the engine. It keeps sockets,
interfaces and bridge domains as VPP does, forwards no packets, and records every call.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Fields of requests after client_index and context, and of replies after context. Types are letters of `struct`;
# "s64" is a string in 64 bytes, "v" a string preceded by its length, "b6" are 6 bytes.
_REQUESTS = {
    "memif_socket_filename_add_del_v2_34223bdf": "is_add:? socket_id:I socket_filename:v",
    "memif_socket_filename_dump_51077d14": "",
    "memif_create_b1b25061": "role:I mode:I rx_queues:B tx_queues:B id:I socket_id:I ring_size:I buffer_size:H "
    "no_zero_copy:? hw_addr:b6 secret:s24",
    "memif_delete_f9e6675e": "sw_if_index:I",
    "memif_dump_51077d14": "",
    "create_vhost_user_if_v2_dba1cc1d": "is_server:? sock_filename:s256 renumber:? mrg:? indirect:? gso:? packed:? "
    "event_idx:? instance:I use_mac:? mac:b6 tag:s64",
    "delete_vhost_user_if_f9e6675e": "sw_if_index:I",
    "sw_interface_vhost_user_dump_f9e6675e": "sw_if_index:I",
    "sw_interface_dump_aa610c27": "sw_if_index:I name_filter_valid:? name_filter:v",
    "sw_interface_set_flags_f5aec1b8": "sw_if_index:I flags:I",
    "sw_interface_set_mtu_5cbe85e5": "sw_if_index:I mtu:I ip4:I ip6:I mpls:I",
    "sw_interface_add_del_address_5463d73b": "sw_if_index:I is_add:? del_all:? af:B address:b16 length:B",
    "sw_interface_tag_add_del_426f8bc1": "is_add:? sw_if_index:I tag:s64",
    "bridge_domain_add_del_600b7170": "bd_id:I flood:? uu_flood:? forward:? learn:? arp_term:? arp_ufwd:? "
    "mac_age:B bd_tag:s64 is_add:?",
    "bridge_domain_dump_74396a43": "bd_id:I sw_if_index:I",
    "sw_interface_set_l2_bridge_d0678b13": "rx_sw_if_index:I bd_id:I port_type:I shg:B enable:?",
    "control_ping_51077d14": "",
}
_ANSWERS = {
    "memif_socket_filename_add_del_v2_reply_9f29bdb9": "retval:i socket_id:I",
    "memif_socket_filename_details_7ff326f7": "socket_id:I socket_filename:s108",
    "memif_create_reply_5383d31f": "retval:i sw_if_index:I",
    "memif_delete_reply_e8d4e804": "retval:i",
    "memif_details_da34feb9": "sw_if_index:I hw_addr:b6 id:I role:I mode:I zero_copy:? socket_id:I ring_size:I "
    "buffer_size:H flags:I if_name:s64",
    "create_vhost_user_if_v2_reply_5383d31f": "retval:i sw_if_index:I",
    "delete_vhost_user_if_reply_e8d4e804": "retval:i",
    "sw_interface_vhost_user_details_0cee1e53": "sw_if_index:I name:s64 hdr:I first:I last:I is_server:? "
    "sock_filename:s256 regions:I errno:i",
    "sw_interface_details_6c221fc7": "sw_if_index:I sup:I l2:b6 flags:I type:I duplex:I speed:I link_mtu:H mtu:I "
    "ip4:I ip6:I mpls:I sub_id:I tags:B outer:H inner:H sub_flags:I op:I push:I tag1:I tag2:I outer_tag:H dmac:b6 "
    "smac:b6 vlan:H i_sid:I name:s64 dev_type:s64 tag:s64",
    "sw_interface_set_flags_reply_e8d4e804": "retval:i",
    "sw_interface_set_mtu_reply_e8d4e804": "retval:i",
    "sw_interface_add_del_address_reply_e8d4e804": "retval:i",
    "sw_interface_tag_add_del_reply_e8d4e804": "retval:i",
    "bridge_domain_add_del_reply_e8d4e804": "retval:i",
    "bridge_domain_details_0fa506fd": "bd_id:I flood:? uu_flood:? forward:? learn:? arp_term:? arp_ufwd:? "
    "mac_age:B bd_tag:s64 bvi:I uu_fwd:I n_sw_ifs:I members:members",
    "sw_interface_set_l2_bridge_reply_e8d4e804": "retval:i",
    "control_ping_reply_f6b0b8ca": "retval:i client_index:I vpe_pid:I",
}
_CONNECTING = {"sockclnt_create_455fb9c4": 15, "sockclnt_create_reply_35166268": 16}
_LEAVING = {"sockclnt_delete_8ac76db6": 17, "sockclnt_delete_reply_8f38b1ee": 18}

NO_SUCH_ENTRY, INVALID_SW_IF_INDEX, INVALID_ARGUMENT = -6, -2, -73
UNEXPECTED_INTF_STATE, IF_ALREADY_EXISTS, VALUE_EXIST, BD_ALREADY_EXISTS = -74, -79, -81, -119
SYSCALL_ERROR_4, BD_IN_USE, ADDRESS_IN_USE = -14, -120, -105
_ANY = 0xFFFFFFFF

Fields = dict[str, Any]


@dataclass
class Interface:
    kind: str  # "memif" or "vhost"
    socket_id: int = 0
    file: str = ""
    role: int = 0
    mode: int = 0
    flags: int = 0
    mtu: int = 9000
    tag: str = ""
    domain: int = 0  # bridge domain, 0 if none
    addresses: list[tuple[bytes, int]] = field(default_factory=list)
    created: Fields = field(default_factory=dict)
    listening: socket.socket | None = None


class FakeVpp:
    """VPP at the socket `path`; `lacks` are messages that it does not support."""

    def __init__(self, path: Path, *, lacks: tuple[str, ...] = ()) -> None:
        self.path = path
        self.sockets: dict[int, str] = {0: "/run/vpp/memif.sock"}
        self.interfaces: dict[int, Interface] = {}
        self.domains: dict[int, str] = {}  # number -> tag
        self.calls: list[tuple[str, Fields]] = []
        self.refuse: dict[str, int] = {}  # message -> error retval to reply with
        self.silent = False  # if True, messages are read and never answered
        known = [name for name in (*_REQUESTS, *_ANSWERS) if not name.startswith(lacks or ("-",))]
        self._numbers = {**_CONNECTING, **_LEAVING, **{name: 100 + n for n, name in enumerate(known)}}
        self._names = {number: name for name, number in self._numbers.items()}
        self._lock = threading.Lock()
        self._next = 1
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()
        for interface in self.interfaces.values():
            _stop(interface)
        self.path.unlink(missing_ok=True)

    def named(self, name: str) -> list[Fields]:
        """The fields of each call of this message, in order."""
        return [fields for called, fields in self.calls if called == name]

    def state(self) -> tuple[object, ...]:
        """A snapshot of sockets, interfaces and bridge domains, for comparison."""
        return (dict(self.sockets), sorted(each.tag for each in self.interfaces.values()), dict(self.domains))

    # Framing

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while header := _exactly(connection, 16):
                _, length, _ = struct.unpack(">QII", header)
                self._take(connection, _exactly(connection, length))
        except OSError:
            return

    def _take(self, connection: socket.socket, message: bytes) -> None:
        (number,) = struct.unpack_from(">H", message)
        name = self._names[number]
        if name in _CONNECTING:
            (context,) = struct.unpack_from(">I", message, 2)
            table = b"".join(struct.pack(">H64s", n, key.encode()) for key, n in self._numbers.items())
            _send(connection, struct.pack(">HIIiIH", 16, 0, context, 0, 7, len(self._numbers)) + table)
            return
        client, context = struct.unpack_from(">II", message, 2)
        assert client == 7, f"{name}: client_index {client}"
        if name in _LEAVING:
            _send(connection, struct.pack(">HIi", 18, context, 0))
            return
        fields, short = _decode(_REQUESTS[name], message[10:]), name.rpartition("_")[0]
        if self.silent:
            return
        with self._lock:
            if short != "control_ping":
                self.calls.append((short, fields))
            answers = self._answer(short, fields)
        for answer, values in answers:
            full = next(key for key in _ANSWERS if key.rpartition("_")[0] == answer)
            body = _encode(_ANSWERS[full], values)
            _send(connection, struct.pack(">HI", self._numbers[full], context) + body)

    def _answer(self, name: str, fields: Fields) -> list[tuple[str, Fields]]:
        if name == "control_ping":
            return [("control_ping_reply", {"retval": 0, "client_index": 7, "vpe_pid": os.getpid()})]
        handler: Callable[..., Any] = getattr(self, f"_{name}")
        if name.endswith("_dump"):
            return [(f"{name.removesuffix('_dump')}_details", row) for row in handler(**fields)]
        if name in self.refuse:
            result: Any = self.refuse[name]
        else:
            result = handler(**fields)
        values = result if isinstance(result, dict) else {"retval": result}
        return [(f"{name}_reply", {"socket_id": 0, "sw_if_index": 0} | {"retval": 0} | values)]

    # memif

    def _memif_socket_filename_add_del_v2(self, *, is_add: bool, socket_id: int, socket_filename: str) -> Any:
        if not is_add:
            if socket_id == 0 or socket_id not in self.sockets:
                return INVALID_ARGUMENT
            if any(each.kind == "memif" and each.socket_id == socket_id for each in self.interfaces.values()):
                return UNEXPECTED_INTF_STATE
            del self.sockets[socket_id]
            return 0
        if not socket_filename:
            return INVALID_ARGUMENT
        number = max(self.sockets) + 7 if socket_id == _ANY else socket_id
        if number in self.sockets:
            return VALUE_EXIST
        self.sockets[number] = socket_filename
        return {"socket_id": number}

    def _memif_socket_filename_dump(self) -> list[Fields]:
        return [{"socket_id": number, "socket_filename": file} for number, file in self.sockets.items()]

    def _memif_create(self, **fields: Any) -> Any:
        number = fields["socket_id"]
        if number not in self.sockets or fields["ring_size"] & (fields["ring_size"] - 1):
            return INVALID_ARGUMENT
        interface = Interface("memif", number, self.sockets[number], fields["role"], fields["mode"], created=fields)
        if fields["role"] == 0:
            try:
                interface.listening = _listen(interface.file, socket.SOCK_SEQPACKET)
            except OSError:
                return SYSCALL_ERROR_4
        return {"sw_if_index": self._new(interface)}

    def _memif_delete(self, *, sw_if_index: int) -> int:
        return self._drop(sw_if_index, "memif")

    def _memif_dump(self) -> list[Fields]:
        return [
            {
                "sw_if_index": index,
                "role": each.role,
                "mode": each.mode,
                "socket_id": each.socket_id,
                "ring_size": each.created["ring_size"],
                "buffer_size": each.created["buffer_size"],
                "flags": each.flags,
                "if_name": f"memif{each.socket_id}/0",
            }
            for index, each in self.interfaces.items()
            if each.kind == "memif"
        ]

    # vhost-user

    def _create_vhost_user_if_v2(self, **fields: Any) -> Any:
        if any(each.kind == "vhost" and each.file == fields["sock_filename"] for each in self.interfaces.values()):
            return IF_ALREADY_EXISTS
        interface = Interface("vhost", file=fields["sock_filename"], tag=fields["tag"], created=fields)
        if fields["is_server"]:
            interface.listening = _listen(interface.file, socket.SOCK_STREAM)
        return {"sw_if_index": self._new(interface)}

    def _delete_vhost_user_if(self, *, sw_if_index: int) -> int:
        return self._drop(sw_if_index, "vhost")

    def _sw_interface_vhost_user_dump(self, *, sw_if_index: int) -> list[Fields]:
        return [
            {"sw_if_index": index, "sock_filename": each.file, "is_server": each.created["is_server"]}
            for index, each in self.interfaces.items()
            if each.kind == "vhost"
        ]

    # Interfaces and bridge domains

    def _sw_interface_dump(self, **_: Any) -> list[Fields]:
        return [
            {"sw_if_index": index, "flags": each.flags, "mtu": each.mtu, "tag": each.tag, "dev_type": each.kind}
            for index, each in [(0, Interface("local")), *self.interfaces.items()]
        ]

    def _sw_interface_set_flags(self, *, sw_if_index: int, flags: int) -> int:
        return self._change(sw_if_index, flags=flags)

    def _sw_interface_set_mtu(self, *, sw_if_index: int, mtu: int, **_: int) -> int:
        return self._change(sw_if_index, mtu=mtu)

    def _sw_interface_tag_add_del(self, *, is_add: bool, sw_if_index: int, tag: str) -> int:
        return self._change(sw_if_index, tag=tag if is_add else "")

    def _sw_interface_add_del_address(
        self, *, sw_if_index: int, is_add: bool, del_all: bool, af: int, address: bytes, length: int
    ) -> int:
        assert is_add
        assert not del_all
        raw = address[: 16 if af else 4]
        if any((raw, length) in each.addresses for each in self.interfaces.values()):
            return ADDRESS_IN_USE
        self.interfaces[sw_if_index].addresses.append((raw, length))
        return 0

    def _bridge_domain_add_del(self, *, bd_id: int, is_add: bool, bd_tag: str, **_: Any) -> int:
        if is_add:
            if bd_id in self.domains:
                return BD_ALREADY_EXISTS
            self.domains[bd_id] = bd_tag
            return 0
        if bd_id not in self.domains:
            return NO_SUCH_ENTRY
        if self._members(bd_id):
            return BD_IN_USE
        del self.domains[bd_id]
        return 0

    def _bridge_domain_dump(self, *, bd_id: int, sw_if_index: int) -> list[Fields]:
        return [
            {
                "bd_id": number,
                "bd_tag": tag,
                "n_sw_ifs": len(self._members(number)),
                "members": self._members(number),
            }
            for number, tag in self.domains.items()
            if bd_id in {_ANY, number}
        ]

    def _sw_interface_set_l2_bridge(
        self, *, rx_sw_if_index: int, bd_id: int, port_type: int, shg: int, enable: bool
    ) -> int:
        if enable and bd_id not in self.domains:
            return NO_SUCH_ENTRY
        return self._change(rx_sw_if_index, domain=bd_id if enable else 0)

    def _members(self, number: int) -> list[int]:
        return [index for index, each in self.interfaces.items() if each.domain == number]

    def _new(self, interface: Interface) -> int:
        index, self._next = self._next, self._next + 1
        self.interfaces[index] = interface
        return index

    def _change(self, index: int, **values: Any) -> int:
        if index not in self.interfaces:
            return INVALID_SW_IF_INDEX
        for key, value in values.items():
            setattr(self.interfaces[index], key, value)
        return 0

    def _drop(self, index: int, kind: str) -> int:
        if index not in self.interfaces or self.interfaces[index].kind != kind:
            return INVALID_SW_IF_INDEX
        _stop(self.interfaces.pop(index))
        return 0


def _listen(file: str, kind: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, kind)
    listening.bind(file)
    listening.listen()
    return listening


def _stop(interface: Interface) -> None:
    if interface.listening is not None:
        interface.listening.close()
        Path(interface.file).unlink(missing_ok=True)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(struct.pack(">QII", 0, len(message), 0) + message)


def _decode(definition: str, data: bytes) -> Fields:
    found, at = {}, 0
    for each in definition.split():
        name, code = each.split(":")
        if code == "v":
            (length,) = struct.unpack_from(">I", data, at)
            found[name], at = data[at + 4 : at + 4 + length].decode(), at + 4 + length
            continue
        size, raw = _raw(code)
        (value,) = struct.unpack_from(f">{raw}", data, at)
        found[name], at = (value.split(b"\0")[0].decode() if code[0] == "s" else value), at + size
    assert at == len(data), f"{definition}: {len(data) - at} bytes too many"
    return found


def _encode(definition: str, values: Fields) -> bytes:
    data = b""
    for each in definition.split():
        name, code = each.split(":")
        if code == "members":
            data += b"".join(struct.pack(">IIB", 0, index, 0) for index in values[name])
            continue
        _, raw = _raw(code)
        empty: Any = b"" if raw.endswith("s") else 0
        value = values.get(name, empty)
        data += struct.pack(f">{raw}", value.encode() if isinstance(value, str) else value)
    return data


def _raw(code: str) -> tuple[int, str]:
    raw = f"{code[1:]}s" if code[0] in "sb" and len(code) > 1 else code
    return struct.calcsize(f">{raw}"), raw
