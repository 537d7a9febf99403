"""VPP: manages memif and vhost-user interfaces through its binary API, in a bridge domain or routed.

Our interfaces have a tag and are found by the tag or by the socket's path. Indexes are never stored: VPP assigns
new ones when it restarts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vpp_papi import VPPApiClient
from vpp_papi.vpp_papi import VPPApiJSONFiles

from wirespeed.errors import Error, Kind
from wirespeed.plugins.vhost.conf import MEMIF
from wirespeed.plugins.vhost.engine import Engine, ExistingPort, Port, SocketTakenError, no_bridge
from wirespeed.plugins.vhost.vpp_messages import definitions
from wirespeed.switches.switch import ANSWER_TIMEOUT, SwitchDownError, UnreachableError

_MARK = "wirespeed"
_ANY = 0xFFFFFFFF  # as an index: all, or "VPP chooses"
_UP = 1  # IF_STATUS_API_FLAG_ADMIN_UP
_ROLES = {"master": 0, "slave": 1}
_MODES = {"": 0, "ethernet": 0, "ip": 1, "inject-punt": 2}
_NO_MAC = bytes(6)
# Descriptions of errors that an administrator can fix (vnet/error.h).
_ERRORS = {
    -6: "no such entry",
    -7: "invalid value",
    -11: "system call 1 failed",
    -14: "system call 4 failed: it cannot listen on the socket",
    -73: "invalid argument",
    -74: "unexpected state of the interface",
    -81: "the interface or value is there already",
    -105: "the address is in use",
}


class _Interface(NamedTuple):
    """A memif or vhost-user interface: VPP's row of it, that of its memif if it is one, the path of its socket."""

    row: Any
    memif: Any
    file: str


class Vpp(Engine):
    """VPP with its API socket at `path`. It has no port names: `socket_of` finds nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._where = path, f"VPP at {path}"
        self._lock = threading.Lock()
        self._client: Any = None

    def add(self, port: Port, *, deadline: float) -> dict[str, Any]:
        conf = port.conf
        with self._session(deadline) as vpp:
            if any(each.file == port.socket for each in _interfaces(vpp)):
                what = f"VPP already has an interface on {port.socket}"
                raise SocketTakenError(Kind.DEVICE, what, expected="another socketfile, or none")
            index = _create_memif(vpp, port) if conf.kind == MEMIF else _create_vhost_user(vpp, port)
            vpp.call("sw_interface_tag_add_del", is_add=True, sw_if_index=index, tag=_tag(port.network, port.name))
            if conf.mtu:
                vpp.call("sw_interface_set_mtu", sw_if_index=index, mtu=[conf.mtu, 0, 0, 0])
            if conf.routed:
                for address in port.addresses:
                    _add_address(vpp, index, address)
            else:
                _ensure_bridge_domain(vpp, int(conf.bridge), create=conf.create)
                _set_bridge_domain(vpp, index, int(conf.bridge), enable=True)
            vpp.call("sw_interface_set_flags", sw_if_index=index, flags=_UP)
        return {"sw_if_index": index}

    def remove(self, port: ExistingPort, *, deadline: float) -> None:
        with self._session(deadline) as vpp:
            for interface in _interfaces(vpp):
                if _is_port(interface, port):
                    _remove(vpp, interface)
            if port.socket:
                _remove_socket_ids(vpp, port.socket)
            _remove_empty_bridge_domains(vpp)

    def drift(self, port: Port, *, deadline: float) -> list[str]:
        conf = port.conf
        with self._session(deadline) as vpp:
            mine = [each for each in _interfaces(vpp) if each.file == port.socket]
            if not mine:
                return [f"VPP has no interface on {port.socket}"]
            row, memif, _ = mine[0]
            domains = _domains_of(vpp, row.sw_if_index)
        wrong = []
        if not row.flags & _UP:
            wrong.append("the interface is down")
        if conf.mtu and row.mtu[0] != conf.mtu:
            wrong.append(f"the mtu is {row.mtu[0]}, expected {conf.mtu}")
        wanted = _ROLES.get(conf.role), _MODES[conf.mode]
        if conf.kind == MEMIF and (memif is None or (memif.role, memif.mode) != wanted):
            wrong.append(f"role and mode of memif are not {conf.role} and {conf.mode or 'ethernet'}")
        if not conf.routed and int(conf.bridge) not in domains:
            wrong.append(f"the interface is not in bridge domain {conf.bridge}")
        return wrong

    def own_ports(self, network: str, *, deadline: float) -> list[ExistingPort]:
        prefix = _tag(network, "")
        with self._session(deadline) as vpp:
            found = _interfaces(vpp)
        return [
            ExistingPort(name=each.row.tag.removeprefix(prefix), socket=each.file)
            for each in found
            if each.row.tag.startswith(prefix)
        ]

    def status(self, *, deadline: float) -> None:
        with self._session(deadline) as vpp:
            _interfaces(vpp)

    @contextmanager
    def _session(self, deadline: float) -> Iterator[_Session]:
        """Open a connection for one call, because VPP may have been restarted; one connection at a time."""
        deadline = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SwitchDownError("earlier calls take too long", where=self._where)
        try:
            client = self._connected()
            try:
                yield _Session(client, self._where, deadline)
            finally:
                client.disconnect()
        finally:
            self._lock.release()

    def _connected(self) -> Any:
        if self._client is None:
            self._client = _client(self._path)
        try:
            self._client.connect("wirespeed")
        except (OSError, ValueError) as error:
            self._client = None
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreachableError(reason, where=self._where) from error
        return self._client


class _Session:
    """Calls of one connection."""

    def __init__(self, client: Any, where: str, deadline: float) -> None:
        self._client, self._where, self._deadline = client, where, deadline

    def call(self, message: str, **fields: Any) -> Any:
        """Return the reply, for a dump the list of replies. Raises SwitchDownError, Error if VPP refuses."""
        function = getattr(self._client.api, message, None)
        if function is None:
            what = f"it has no message {message} as 23.10 to 26.06 define it"
            expected = "such a version with the plugins memif and vhost"
            raise Error(Kind.UNAVAILABLE, what, where=self._where, expected=expected)
        left = self._deadline - time.monotonic()
        try:
            reply = function(_timeout=max(0.001, left), **fields)
        except OSError as error:
            raise SwitchDownError(f"no answer to {message}", where=self._where) from error
        if not isinstance(reply, list) and reply.retval:
            reason = _ERRORS.get(reply.retval, "see vnet/error.h")
            raise Error(Kind.DEVICE, f"it refuses {message}: {reply.retval}, {reason}", where=self._where)
        return reply


def _client(path: Path) -> Any:
    """Create the client library's object, with the definitions of only those messages that are used here."""
    client = VPPApiClient(bootstrapapi=True, server_address=str(path), async_thread=False, read_timeout=5)
    client.bootstrapapi = False  # needed only for the connection's own messages; do not query VPP for all others
    messages, services = VPPApiJSONFiles.process_json_str(definitions())
    client.messages.update(messages)
    client.services.update(services)
    return client


def _tag(network: str, name: str) -> str:
    """Return the interface's tag; VPP takes at most 63 bytes (a port's name has at most 28)."""
    return f"{_MARK}:{hashlib.blake2s(network.encode(), digest_size=8).hexdigest()}:{name}"


def _is_port(interface: _Interface, port: ExistingPort) -> bool:
    tag: str = interface.row.tag
    if port.socket and interface.file == port.socket and not tag:
        return True  # an ADD was killed before it set the tag, or a restarted VPP restored it without tag
    return tag.startswith(f"{_MARK}:") and tag.endswith(f":{port.name}")


def _interfaces(vpp: _Session) -> list[_Interface]:
    """Return all memif and vhost-user interfaces, including those of others."""
    files = {row.socket_id: row.socket_filename for row in vpp.call("memif_socket_filename_dump")}
    memifs = {row.sw_if_index: row for row in vpp.call("memif_dump")}
    vhosts = {row.sw_if_index: row for row in vpp.call("sw_interface_vhost_user_dump", sw_if_index=_ANY)}
    found = []
    for row in vpp.call("sw_interface_dump", sw_if_index=_ANY, name_filter_valid=False, name_filter=""):
        if memif := memifs.get(row.sw_if_index):
            found.append(_Interface(row, memif, files.get(memif.socket_id, "")))
        elif vhost := vhosts.get(row.sw_if_index):
            found.append(_Interface(row, None, vhost.sock_filename))
    return found


# ADD


def _ensure_bridge_domain(vpp: _Session, number: int, *, create: bool) -> None:
    if _bridge_domain(vpp, number) is not None:
        return
    if not create:
        raise no_bridge(f"VPP has no bridge domain {number}")
    try:
        vpp.call("bridge_domain_add_del", **_domain_fields(number), is_add=True)
    except Error:
        if _bridge_domain(vpp, number) is None:  # another process may have created it meanwhile
            raise


def _domain_fields(number: int) -> dict[str, Any]:
    """Return the fields of an ordinary learning bridge domain."""
    switches = dict.fromkeys(("flood", "uu_flood", "forward", "learn"), True)
    return {"bd_id": number, **switches, "arp_term": False, "arp_ufwd": False, "mac_age": 0, "bd_tag": _MARK}


def _bridge_domain(vpp: _Session, number: int) -> Any:
    rows = vpp.call("bridge_domain_dump", bd_id=number, sw_if_index=_ANY)
    return next((row for row in rows if row.bd_id == number), None)


def _create_memif(vpp: _Session, port: Port) -> int:
    conf = port.conf
    socket = vpp.call(
        "memif_socket_filename_add_del_v2", is_add=True, socket_id=_ANY, socket_filename=port.socket
    ).socket_id
    reply = vpp.call(
        "memif_create",
        role=_ROLES[conf.role],
        mode=_MODES[conf.mode],
        rx_queues=conf.queues,
        tx_queues=conf.queues,
        id=0,
        socket_id=socket,
        ring_size=conf.ring_size,
        buffer_size=conf.buffer_size,
        no_zero_copy=False,
        hw_addr=_NO_MAC,
        secret=conf.secret,
    )
    return int(reply.sw_if_index)


def _create_vhost_user(vpp: _Session, port: Port) -> int:
    reply = vpp.call(
        "create_vhost_user_if_v2",
        is_server=port.conf.role == "server",
        sock_filename=port.socket,
        renumber=False,
        disable_mrg_rxbuf=False,
        disable_indirect_desc=False,
        enable_gso=False,
        enable_packed=False,
        enable_event_idx=False,
        custom_dev_instance=0,
        use_custom_mac=False,
        mac_address=_NO_MAC,
        tag=_tag(port.network, port.name),
    )
    return int(reply.sw_if_index)


def _add_address(vpp: _Session, index: int, address: str) -> None:
    interface = ipaddress.ip_interface(address)
    vpp.call(
        "sw_interface_add_del_address",
        sw_if_index=index,
        is_add=True,
        del_all=False,
        family=int(interface.version == 6),
        address=interface.ip.packed.ljust(16, b"\0"),
        length=interface.network.prefixlen,
    )


def _set_bridge_domain(vpp: _Session, index: int, number: int, *, enable: bool) -> None:
    vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=index, bd_id=number, port_type=0, shg=0, enable=enable)


# DEL


def _domains_of(vpp: _Session, index: int) -> list[int]:
    rows = vpp.call("bridge_domain_dump", bd_id=_ANY, sw_if_index=_ANY)
    return [row.bd_id for row in rows if any(member.sw_if_index == index for member in row.sw_if_details)]


def _remove(vpp: _Session, interface: _Interface) -> None:
    index = interface.row.sw_if_index
    for number in _domains_of(vpp, index):
        _set_bridge_domain(vpp, index, number, enable=False)
    if interface.memif:
        vpp.call("memif_delete", sw_if_index=index)
        _remove_socket_ids(vpp, interface.file)
    else:
        vpp.call("delete_vhost_user_if", sw_if_index=index)


def _remove_empty_bridge_domains(vpp: _Session) -> None:
    """Remove the bridge domains that we created and that are empty."""
    for domain in vpp.call("bridge_domain_dump", bd_id=_ANY, sw_if_index=_ANY):
        if domain.bd_tag == _MARK and not domain.n_sw_ifs:
            vpp.call("bridge_domain_add_del", **_domain_fields(domain.bd_id), is_add=False)


def _remove_socket_ids(vpp: _Session, file: str) -> None:
    """Remove the ids of a memif socket that no interface uses any more."""
    used = {row.socket_id for row in vpp.call("memif_dump")}
    for row in vpp.call("memif_socket_filename_dump"):
        if row.socket_filename == file and row.socket_id and row.socket_id not in used:
            vpp.call("memif_socket_filename_add_del_v2", is_add=False, socket_id=row.socket_id, socket_filename="")
