"""The kernel's messages about health reporters, encoded by pyroute2."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pyroute2.netlink.devlink import DEVLINK_NAMES, devlinkcmd

from wirespeed.host import netlink
from wirespeed.host.devlink import HealthReporters, Reporter, apply
from wirespeed.host.rtnl import NetlinkError

PF = "0000:18:00.0"
FAMILY = 21
FATAL, PORT_TX = Reporter(PF, -1, "fw_fatal"), Reporter(PF, 65535, "tx")


def message(command: str, reporter: Reporter, state: int | None = None, *, recovers: bool = True) -> bytes:
    """One message with its netlink header, as sent by the kernel."""
    encoded = devlinkcmd()
    encoded["cmd"], encoded["version"] = DEVLINK_NAMES[f"DEVLINK_CMD_{command}"], 1
    encoded["header"]["type"] = FAMILY
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
        [(kind, payload)] = netlink.messages(each)
        assert kind == FAMILY
        apply(found, payload)
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


class Listening(socket.socket):
    """A listening socket that can lose notifications."""

    overflows = False

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if self.overflows:
            self.overflows = False
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return super().recv(bufsize, flags)


class Kernel:
    """The kernel's end of a listening socket, and its answers to dump requests, which may end with an error."""

    def __init__(self, *answers: list[bytes | OSError]) -> None:
        self.socket, listening = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening = Listening(fileno=listening.detach())
        self.answers = list(answers)
        self.answered, self.late = threading.Event(), threading.Event()

    def answer(self) -> Iterator[bytes]:
        assert self.answered.wait(30)
        for each in self.answers.pop(0):
            if isinstance(each, OSError):
                raise each
            for _, payload in netlink.messages(each):
                yield payload

    @contextmanager
    def reporters(self) -> Iterator[HealthReporters]:
        made = HealthReporters(self.listening, FAMILY, self.answer, self.late.set)
        with closing(made), self.socket:
            yield made


def test_what_was_broken_before_is_known_at_once() -> None:
    kernel = Kernel([message("HEALTH_REPORTER_GET", FATAL, 1)])
    kernel.answered.set()
    with kernel.reporters() as reporters:
        assert reporters.in_error == {FATAL}


def test_late_answer_does_not_undo_what_was_told_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wirespeed.host.devlink._PATIENCE", 0)
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
    monkeypatch.setattr("wirespeed.host.devlink._PAUSE", 0)
    kernel = Kernel([FAILED], [FAILED], [message("HEALTH_REPORTER_GET", FATAL, 1)])
    kernel.answered.set()
    with kernel.reporters() as reporters:
        assert kernel.late.wait(30)
        assert reporters.in_error == {FATAL}
    assert caplog.messages == ["devlink does not tell all that is broken: Interrupted system call"]


@pytest.mark.parametrize("kind", [2, 3])  # NLMSG_ERROR; NLMSG_DONE after a part of the answer
def test_dump_that_the_kernel_ends_with_an_error_is_not_complete(kind: int) -> None:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernels:
        kernels.send(message("HEALTH_REPORTER_GET", FATAL, 1))
        kernels.send(struct.pack("=IHHIIi", 20, kind, 2, 1, 0, -errno.EINTR))
        answer = netlink.request(ours, FAMILY, netlink.DUMP, b"")
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
