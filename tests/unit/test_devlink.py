"""The kernel's messages about health reporters, encoded by pyroute2."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd

from wirespeed.devices.reporters import HealthReporters
from wirespeed.kernel.netlink.codec import NLM_F_DUMP, messages
from wirespeed.kernel.netlink.devlink import Reporter, update_reporters
from wirespeed.kernel.netlink.errors import NetlinkError
from wirespeed.kernel.netlink.socket import NETLINK_GENERIC, NetlinkSocket

PF = "0000:18:00.0"
FAMILY = 21
FATAL, PORT_TX = Reporter(PF, -1, "fw_fatal"), Reporter(PF, 65535, "tx")


def message(
    command: str, reporter: Reporter, state: int | None = None, *, recovers: bool = True, sequence: int = 0
) -> bytes:
    """One message with its netlink header, as sent by the kernel."""
    encoded = devlinkcmd()
    encoded["cmd"], encoded["version"] = DEVLINK_NAMES[f"DEVLINK_CMD_{command}"], 1
    encoded["header"]["type"], encoded["header"]["sequence_number"] = FAMILY, sequence
    attributes: list[tuple[str, object]] = [
        ("DEVLINK_ATTR_BUS_NAME", "pci"),
        ("DEVLINK_ATTR_DEV_NAME", reporter.device),
    ]
    if reporter.port >= 0:
        attributes.append(("DEVLINK_ATTR_PORT_INDEX", reporter.port))
    if state is not None:
        about = [
            ("DEVLINK_ATTR_HEALTH_REPORTER_NAME", reporter.name),
            ("DEVLINK_ATTR_HEALTH_REPORTER_STATE", state),
            ("DEVLINK_ATTR_HEALTH_REPORTER_ERR_COUNT", 4),
        ]
        if recovers:
            about.append(("DEVLINK_ATTR_HEALTH_REPORTER_AUTO_RECOVER", 0))
        attributes.append(("DEVLINK_ATTR_HEALTH_REPORTER", {"attrs": about}))
    encoded["attrs"] = attributes
    encoded.encode()
    return bytes(encoded.data)


def after(*sent: bytes) -> set[Reporter]:
    """The reporters that are in error after these messages."""
    found: set[Reporter] = set()
    for each in sent:
        [notification] = messages(each)
        assert notification.kind == FAMILY
        update_reporters(found, notification.payload)
    return found


def broken(reporter: Reporter) -> bytes:
    return message("HEALTH_REPORTER_RECOVER", reporter, 1)


def test_reporter_is_in_error_until_it_is_told_to_be_healthy() -> None:
    assert after(broken(FATAL), broken(PORT_TX)) == {FATAL, PORT_TX}
    assert after(broken(FATAL), message("HEALTH_REPORTER_RECOVER", FATAL, 0), broken(PORT_TX)) == {PORT_TX}


def test_answer_counts_as_a_notice_does() -> None:
    assert after(message("HEALTH_REPORTER_GET", FATAL, 1), message("HEALTH_REPORTER_GET", PORT_TX, 0)) == {FATAL}


def test_reporter_that_cannot_recover_is_never_in_error() -> None:
    assert after(message("HEALTH_REPORTER_RECOVER", Reporter(PF, -1, "mdd"), 1, recovers=False)) == set()


def test_reporters_go_with_their_device_or_their_port() -> None:
    other = Reporter("0000:3b:00.0", 65535, "tx")
    assert after(broken(FATAL), broken(PORT_TX), broken(other), message("PORT_DEL", PORT_TX)) == {FATAL, other}
    assert after(broken(FATAL), broken(PORT_TX), broken(other), message("DEL", FATAL)) == {other}


@pytest.mark.parametrize("command", ["NEW", "PORT_NEW", "PARAM_NEW"])
def test_other_notices_change_nothing(command: str) -> None:
    assert after(broken(FATAL), message(command, PORT_TX)) == {FATAL}


class FromKernel(socket.socket):
    """A socket on which all datagrams come from the kernel, and which can lose them."""

    overflows = False

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, tuple[int, int]]:
        if self.overflows:
            self.overflows = False
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return self.recv_into(buffer, nbytes, flags), (0, 0)


class Subscribed(NetlinkSocket):
    """A netlink socket that receives what a test sends to `receiving`."""

    def __init__(self, receiving: FromKernel) -> None:
        self._socket = receiving
        self._socket.setblocking(False)


class Kernel:
    """The kernel's end of a listening socket, and its answers to dump requests, which may end with an error."""

    def __init__(self, *answers: list[bytes | OSError]) -> None:
        self.socket, listening = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening = FromKernel(fileno=listening.detach())
        self.answers = list(answers)
        self.answered, self.late = threading.Event(), threading.Event()

    def answer(self) -> Iterator[bytes]:
        assert self.answered.wait(30)
        for each in self.answers.pop(0):
            if isinstance(each, OSError):
                raise each
            for answer in messages(each):
                yield answer.payload

    @contextmanager
    def reporters(self) -> Iterator[HealthReporters]:
        made = HealthReporters(Subscribed(self.listening), FAMILY, self.answer, self.late.set)
        with closing(made), self.socket:
            yield made


def test_what_was_broken_before_is_known_at_once() -> None:
    kernel = Kernel([message("HEALTH_REPORTER_GET", FATAL, 1)])
    kernel.answered.set()
    with kernel.reporters() as reporters:
        assert reporters.in_error == {FATAL}


def test_late_answer_does_not_undo_what_was_told_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wirespeed.devices.reporters._DUMP_TIMEOUT", 0)
    other = Reporter("0000:3b:00.0", -1, "fw_fatal")
    states = [(FATAL, 1), (PORT_TX, 0), (other, 1)]
    kernel = Kernel([message("HEALTH_REPORTER_GET", each, state) for each, state in states])
    with kernel.reporters() as reporters:
        assert reporters.in_error == set()
        kernel.socket.send(broken(PORT_TX))
        kernel.socket.send(message("HEALTH_REPORTER_RECOVER", FATAL, 0))
        assert reporters.drain()
        assert reporters.in_error == {PORT_TX}
        kernel.answered.set()
        assert kernel.late.wait(30)
        assert reporters.in_error == {PORT_TX, other}
        assert not reporters.drain()


FAILED = OSError(errno.EINTR, os.strerror(errno.EINTR))


def test_reporter_that_a_failed_dump_does_not_mention_stays_in_error() -> None:
    kernel = Kernel(
        [message("HEALTH_REPORTER_GET", FATAL, 1)], [message("HEALTH_REPORTER_GET", PORT_TX, 1), FAILED]
    )
    kernel.answered.set()
    with kernel.reporters() as reporters:
        kernel.late.clear()
        kernel.listening.overflows = True
        reporters.drain()
        assert kernel.late.wait(30)
        assert reporters.in_error == {FATAL, PORT_TX}


def test_failed_dump_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("wirespeed.devices.reporters._RETRY_DELAY", 0)
    kernel = Kernel([FAILED], [FAILED], [message("HEALTH_REPORTER_GET", FATAL, 1)])
    kernel.answered.set()
    with kernel.reporters() as reporters:
        assert kernel.late.wait(30)
        assert reporters.in_error == {FATAL}
    assert caplog.messages == ["devlink does not report the state of all health reporters: Interrupted system call"]


class Timers:
    """Timers that have not expired; `started` counts those that were started."""

    def __init__(self) -> None:
        self.pending: list[Timer] = []
        self.started = threading.Semaphore(0)

    def timer(self, _: float, function: Callable[[], object]) -> Timer:
        return Timer(self, function)


class Timer:
    def __init__(self, timers: Timers, function: Callable[[], object]) -> None:
        self.timers, self.function, self.daemon = timers, function, False

    def start(self) -> None:
        self.timers.pending.append(self)
        self.timers.started.release()

    def cancel(self) -> None:
        if self in self.timers.pending:
            self.timers.pending.remove(self)


def test_one_retry_is_pending_however_often_dumps_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers()
    monkeypatch.setattr("wirespeed.devices.reporters.threading.Timer", timers.timer)
    failed: list[bytes | OSError] = [FAILED]
    kernel = Kernel(failed, failed, failed, failed, failed)
    kernel.answered.set()
    with kernel.reporters() as reporters:
        assert timers.started.acquire(timeout=30)
        for _ in range(3):
            kernel.listening.overflows = True
            reporters.drain()
            assert timers.started.acquire(timeout=30)
            assert len(timers.pending) == 1
        [retry] = timers.pending
    assert timers.pending == []
    retry.function()  # it had expired just before
    for thread in threading.enumerate():
        if thread.name == "devlink":
            thread.join(30)
    assert len(kernel.answers) == 1


@pytest.mark.parametrize("kind", [2, 3])  # NLMSG_ERROR; NLMSG_DONE after a part of the answer
def test_dump_that_the_kernel_ends_with_an_error_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("wirespeed.kernel.netlink.socket.socket.socket", lambda *_: ours)
    with NetlinkSocket(NETLINK_GENERIC) as netlink, kernels:
        kernels.send(message("HEALTH_REPORTER_GET", FATAL, 1, sequence=1))
        kernels.send(struct.pack("=IHHIIi", 20, kind, 2, 1, 0, -errno.EINTR))
        answer = netlink.request(FAMILY, NLM_F_DUMP, b"")
        assert next(answer)
        with pytest.raises(NetlinkError, match="Interrupted system call"):
            next(answer)


def test_messages_of_other_families_are_passed_over() -> None:
    kernel = Kernel([])
    kernel.answered.set()
    with kernel.reporters() as reporters:
        kernel.socket.send(netlink_error())
        assert not reporters.drain()
        kernel.socket.send(broken(FATAL))
        assert reporters.drain()


def netlink_error() -> bytes:
    return b"\x24\0\0\0\2\0\0\0" + bytes(28)
