"""devlink health reporters: what the drivers of NICs report as broken (linux/devlink.h)."""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wirespeed.host import netlink
from wirespeed.host.rtnl import NetlinkError

log = logging.getLogger(__name__)

_COMMAND = struct.Struct("BBH")  # struct genlmsghdr
_DEL, _PORT_DEL, _REPORTER_GET, _REPORTER_RECOVER = 4, 8, 52, 54
_DEVICE, _PORT, _REPORTER, _NAME, _STATE, _AUTO_RECOVER = 2, 3, 114, 115, 116, 121
_IN_ERROR = b"\1"  # DEVLINK_HEALTH_REPORTER_STATE_ERROR
_CONTROLLER, _GET_FAMILY = 16, 3  # linux/genetlink.h
_FAMILY_ID, _FAMILY_NAME, _GROUPS, _GROUP_NAME, _GROUP_ID = 1, 2, 7, 1, 2
_NETLINK_GENERIC, _SOL_NETLINK, _ADD_MEMBERSHIP = 16, 270, 1  # linux/netlink.h, linux/socket.h
_PATIENCE = 1.0  # seconds to wait for the first dump
_PAUSE = 10.0  # seconds after a failed dump until the next one


@dataclass(frozen=True, order=True)
class Reporter:
    """A health reporter of a device, given by its name on its bus, or of one of its ports (-1: of no port)."""

    device: str
    port: int
    name: str


class HealthReporters:
    """Tracks which health reporters are in error. One thread calls `drain`, any thread may read `in_error`.

    The kernel notifies of every change, but dumps the current state only while no driver has its device locked:
    during a reset that recovers a NIC, a dump takes minutes. So a separate thread waits for it.
    """

    def __init__(
        self,
        listening: socket.socket,
        family: int,
        ask: Callable[[], Iterable[bytes]],
        late: Callable[[], None],
    ) -> None:
        """`ask` dumps the messages of all reporters; another thread calls `late` if the dump brings changes."""
        listening.setblocking(False)
        self._socket, self._family, self._dump, self._late = listening, family, ask, late
        self._lock = threading.Lock()
        self._in_error: set[Reporter] = set()
        self._meanwhile: list[bytes] | None = None  # notifications since a dump was requested; None: none pending
        self._closed = False
        self._problem = ""  # of the last dump
        self._again: threading.Timer | None = None
        self._ask().join(_PATIENCE)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._again:
                self._again.cancel()
        self._socket.close()

    @property
    def in_error(self) -> frozenset[Reporter]:
        """The reporters in error, without those that cannot recover: these only count events."""
        with self._lock:
            return frozenset(self._in_error)

    def drain(self) -> bool:
        """Process all notifications; return whether the set of reporters in error changed. Raises OSError."""
        before, lost = self.in_error, False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if not lost:  # after an overflow these are older than what was lost, and a new dump follows
                self._note([message for kind, message in netlink.messages(data) if kind == self._family])
        if lost:
            self._ask()
        return self.in_error != before

    def _note(self, told: list[bytes]) -> None:
        with self._lock:
            if self._meanwhile is not None:
                self._meanwhile += told
            for message in told:
                apply(self._in_error, message)

    def _ask(self) -> threading.Thread:
        meanwhile: list[bytes] = []
        with self._lock:
            self._meanwhile = meanwhile
        thread = threading.Thread(target=self._take_answer, args=(meanwhile,), name="devlink", daemon=True)
        thread.start()
        return thread

    def _take_answer(self, meanwhile: list[bytes]) -> None:
        answer: list[bytes] = []
        problem = ""
        try:
            answer.extend(self._dump())
        except OSError as error:
            problem = error.strerror or str(error)
        with self._lock:
            if self._closed or self._meanwhile is not meanwhile:  # a newer dump was requested after an overflow
                return
            if problem and problem != self._problem:
                log.warning("devlink does not tell all that is broken: %s", problem)
            self._problem = problem
            before = frozenset(self._in_error)
            if problem:  # what is missing in the answer may still be in error
                self._again = threading.Timer(_PAUSE, self._ask)
                self._again.daemon = True
                self._again.start()
            else:
                self._in_error.clear()
            for message in [*answer, *meanwhile]:  # the dump may be older than the notifications
                apply(self._in_error, message)
            self._meanwhile = None
            if self._in_error != before:
                self._late()


def health_reporters(late: Callable[[], None]) -> HealthReporters | None:
    """Watch the health reporters of the calling thread's network namespace; `late` as in HealthReporters.

    None if the kernel has no devlink. Raises OSError.
    """
    try:
        family, group = _family()
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise

    def ask() -> Iterable[bytes]:
        with _open() as asking:
            yield from netlink.request(asking, family, netlink.DUMP, _COMMAND.pack(_REPORTER_GET, 1, 0))

    listening = _open()
    listening.bind((0, 0))  # an unbound socket gets no notifications
    listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return HealthReporters(listening, family, ask, late)


def apply(in_error: set[Reporter], message: bytes) -> None:
    """Update the set by a devlink message (starting at its genlmsghdr); unrelated messages change nothing."""
    command = message[0]
    found = netlink.attributes(message[_COMMAND.size :])
    if _DEVICE not in found:
        return
    device = netlink.string(found[_DEVICE])
    port = struct.unpack("I", found[_PORT])[0] if _PORT in found else -1
    if command in {_REPORTER_GET, _REPORTER_RECOVER}:
        about = netlink.attributes(found[_REPORTER])
        reporter = Reporter(device, port, netlink.string(about[_NAME]))
        # The kernel sends AUTO_RECOVER only for a reporter that can recover; others never leave the error state.
        if about[_STATE] == _IN_ERROR and _AUTO_RECOVER in about:
            in_error.add(reporter)
        else:
            in_error.discard(reporter)
    elif command in {_DEL, _PORT_DEL}:  # the kernel does not notify of the reporters that go with it
        gone = {each for each in in_error if each.device == device and (command == _DEL or each.port == port)}
        in_error -= gone


def _family() -> tuple[int, int]:
    """Return the ids of the generic netlink family devlink and of its multicast group for changes ("config")."""
    with _open() as asking:
        body = _COMMAND.pack(_GET_FAMILY, 1, 0) + netlink.text(_FAMILY_NAME, "devlink")
        [answer] = netlink.request(asking, _CONTROLLER, 0, body)
    found = netlink.attributes(answer[_COMMAND.size :])
    groups = map(netlink.attributes, netlink.attributes(found[_GROUPS]).values())
    group = next(each[_GROUP_ID] for each in groups if netlink.string(each[_GROUP_NAME]) == "config")
    return struct.unpack("H", found[_FAMILY_ID])[0], struct.unpack("I", group)[0]


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
