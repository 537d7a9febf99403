"""The shim: what it sends, how it waits, and that it never reports success for a failure."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.calling import Answer, Call, until
from tests.node.conftest import PATIENCE
from wirespeed.agent import frame
from wirespeed.agent.listener import Listener, Lock
from wirespeed.cni import dispatch
from wirespeed.cni.errors import Code
from wirespeed.cni.plugin import Plugin

CONFIG = {"cniVersion": "0.4.0", "name": "net", "type": "probe"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The path of the agent's socket, not created yet."""
    return tmp_path / "agent.sock"


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """An agent's listening socket that nobody serves."""
    with contextlib.closing(Lock(path)) as lock, contextlib.closing(Listener(path, lock)) as listener:
        yield listener.socket


def environ(place: Path, verb: str = "ADD", **more: str) -> dict[str, str]:
    return {"WIRESPEED_SOCKET": str(place), "CNI_COMMAND": verb, **more}


def no_plugin() -> Plugin:
    raise AssertionError


class Peer:
    """The agent's end of one connection, controlled by the test."""

    def __init__(self, listener: socket.socket) -> None:
        listener.settimeout(PATIENCE)
        self.socket, _ = listener.accept()
        self.socket.settimeout(PATIENCE)

    def read_call(self) -> frame.Call:
        received = bytearray()
        while True:
            piece = self.socket.recv(1 << 20)
            assert piece, "the shim left"
            received += piece
            call = frame.parse_call(received)
            if call is not None:
                return call

    def say(self, answer: bytes) -> None:
        """Send the bytes and close the connection."""
        with self.socket:
            self.socket.sendall(answer)


def call_and_say(shim: Path, place: Path, answer: bytes, verb: str = "ADD") -> Answer:
    """Call the shim with an agent that reads the call and answers with these bytes."""
    with listening(place) as listener:
        call = Call(shim, environ(place, verb), CONFIG)
        peer = Peer(listener)
        peer.read_call()
        peer.say(answer)
        return call.answer()


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{}",
        b"no json",
        b"[]",
        *(json.dumps({"cniVersion": v}).encode() for v in ("0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")),
        b'{"cniVersion" :\n\t"0.4.0" }',
        b'{"cniVersion":1}',
        b'{"cniVersion":["0.4.0"]}',
        b'{"cniVersion":"0.3.0","cniVersion":"0.4.0"}',
        b'{"cniVersion":"0.3.0","cniVersion":null}',
        b'{"plugins":[{"cniVersion":"0.3.1"}]}',
        b'{"plugins":[{"cniVersion":"0.3.1"}],"cniVersion":"1.0.0"}',
        b'{"name":"cniVersion","type":"0.4.0"}',
        b'{"name":"\\"cniVersion\\":\\"0.4.0\\"","cniVersion":"1.0.0"}',
        b'{"name":"\\\\","cniVersion":"1.0.0"}',
    ],
)
def test_version_is_answered_without_the_agent_and_as_it_would(shim: Path, place: Path, stdin: bytes) -> None:
    expected = dispatch.answer(no_plugin, {"CNI_COMMAND": "VERSION"}, stdin)
    call = Call(shim, environ(place, "VERSION"), stdin)
    stdout, _ = call.process.communicate(timeout=PATIENCE)
    assert (call.process.returncode, stdout) == expected


def test_call_carries_the_name_the_cni_variables_and_standard_input(shim: Path, place: Path) -> None:
    variables = {"CNI_ARGS": "a=1;b=2", "CNI_PATH": "/x:/y", "CNI_NETNS": "", "CNI_COMMAND": "ADD"}
    with listening(place) as listener:
        call = Call(
            shim, {**environ(place), **variables, "HOME": "/root", "XCNI_A": "1"}, b"\0stdin\0\0", name="multus"
        )
        peer = Peer(listener)
        received = peer.read_call()
        peer.say(frame.write_answer(0))
        assert call.answer() == (0, {})
    assert received == frame.Call("multus", variables, b"\0stdin\0\0")


def test_answer_is_passed_on_whole(shim: Path, place: Path) -> None:
    result = {"cniVersion": "1.0.0", "filler": "x" * (1 << 20)}
    assert call_and_say(shim, place, frame.write_answer(0, json.dumps(result).encode())) == (0, result)


@pytest.mark.parametrize(("told", "ends_with"), [(0, 0), (1, 1), (2, 2), (255, 255), (256, 1), (0xFFFFFF00, 1)])
def test_only_the_status_zero_is_success(shim: Path, place: Path, told: int, ends_with: int) -> None:
    assert call_and_say(shim, place, frame.write_answer(told)) == (ends_with, {})


def test_answer_may_come_in_pieces(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        call = Call(shim, environ(place), CONFIG)
        peer = Peer(listener)
        peer.read_call()
        with peer.socket:
            for byte in frame.write_answer(3, b'{"a":1}'):
                peer.socket.send(bytes([byte]))
                # Wait until the piece is read before sending the next, so that the shim reads several pieces.
                until(lambda: unread(peer.socket) == 0, "read by the shim")
        assert call.answer() == (3, {"a": 1})


def unread(connection: socket.socket) -> int:
    """The bytes that the other end has not read yet (SIOCOUTQ)."""
    import fcntl
    import termios

    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0])


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("length", range(8 + 7))
def test_agent_that_ends_within_its_answer_is_no_success(shim: Path, place: Path, verb: str, length: int) -> None:
    whole = frame.write_answer(0, b'{"a":1}')
    status, body = call_and_say(shim, place, whole[:length], verb)
    assert (status, body["code"], body["cniVersion"]) == (1, Code.TRY_AGAIN_LATER, "0.4.0")
    assert body["msg"] == f"agent at {place} ended before it had answered {verb}: connection closed"


def test_agent_that_ends_is_followed_by_the_next(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        call = Call(shim, environ(place), CONFIG)
        first = Peer(listener)
        asked = first.read_call()
        first.say(frame.write_answer(frame.TRY_NEXT_AGENT))
        second = Peer(listener)
        assert second.read_call() == asked
        second.say(frame.write_answer(0, b'{"a":1}'))
        assert call.answer() == (0, {"a": 1})


def test_refusal_before_the_whole_call_is_read_is_passed_on(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        call = subprocess.Popen(
            [shim], env=environ(place), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # The shim reads all of it before it connects, and then its call does not fit into the socket buffer.
        feeder = threading.Thread(target=call.communicate, args=(b" " * (4 << 20), PATIENCE))
        feeder.start()
        Peer(listener).say(frame.write_answer(7, b"refused"))
        feeder.join(PATIENCE)
    assert call.returncode == 7


def test_largest_standard_input_is_carried_and_a_larger_one_refused(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        held: list[frame.Call] = []

        def serve() -> None:
            peer = Peer(listener)
            held.append(peer.read_call())
            peer.say(frame.write_answer(0))

        server = threading.Thread(target=serve)
        server.start()
        assert Call(shim, environ(place), b" " * (4 << 20)).answer() == (0, {})
        server.join(PATIENCE)
        assert held[0].stdin == b" " * (4 << 20)
    status, body = Call(shim, environ(place), b" " * ((4 << 20) + 1)).answer()
    assert (status, body["code"]) == (1, Code.DECODING_FAILURE)
    assert body["msg"] == "standard input: expected at most 4194304 bytes"


def test_answer_that_is_too_large_is_refused(shim: Path, place: Path) -> None:
    status, body = call_and_say(shim, place, struct.pack(">II", 0, 1 << 30))
    assert (status, body["code"]) == (1, Code.DECODING_FAILURE)
    assert body["msg"] == f"agent at {place}: expected an answer of at most 16777216 bytes, got 1073741824"


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS", ""])
def test_absent_agent_is_try_again_later(shim: Path, place: Path, verb: str) -> None:
    status, body = Call(shim, environ(place, verb, WIRESPEED_WAIT_MS="0"), CONFIG).answer()
    assert (status, body["code"], body["cniVersion"]) == (1, Code.TRY_AGAIN_LATER, "0.4.0")
    assert body["msg"].startswith(f"no agent answers at {place} within 0 ms (No such file or directory)")


def test_error_without_a_version_in_the_configuration_speaks_1_0_0(shim: Path, place: Path) -> None:
    _, body = Call(shim, environ(place, WIRESPEED_WAIT_MS="0"), b'{"cniVersion":"9.9.9"}').answer()
    assert body["cniVersion"] == "1.0.0"


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "not-ascii-é"])
def test_error_is_one_line_of_json_whatever_the_path_is_called(shim: Path, tmp_path: Path, name: str) -> None:
    _, body = Call(shim, environ(tmp_path / name, WIRESPEED_WAIT_MS="0"), CONFIG).answer()
    shown = "".join(c if c.isascii() and c.isprintable() else "?" * len(c.encode()) for c in name)
    assert f"/{shown} within" in body["msg"]


@pytest.mark.parametrize("text", ["soon", "-1", "1s", "99999999999999999999"])
def test_bound_of_the_wait_has_to_be_milliseconds(shim: Path, place: Path, text: str) -> None:
    status, body = Call(shim, environ(place, WIRESPEED_WAIT_MS=text), CONFIG).answer()
    assert (status, body["code"]) == (1, Code.INVALID_ENVIRONMENT)
    assert body["msg"] == f"WIRESPEED_WAIT_MS: expected milliseconds, got '{text}'"


def test_path_that_no_socket_can_have_is_refused(shim: Path) -> None:
    status, body = Call(shim, environ(Path("/" + "x" * 107)), CONFIG).answer()
    assert (status, body["code"]) == (1, Code.INVALID_ENVIRONMENT)
    assert body["msg"].startswith("WIRESPEED_SOCKET: expected a path of at most 107 bytes, got '/xxx")


def test_file_that_is_no_folder_in_the_path_is_told_at_once(shim: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, body = Call(shim, environ(tmp_path / "file/agent.sock"), CONFIG).answer()
    assert (status, body["code"]) == (1, Code.IO_FAILURE)
    assert body["msg"] == f"agent at {tmp_path}/file/agent.sock: Not a directory"


def watched(pid: int) -> set[int]:
    """The inodes that the process watches with inotify."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            for line in info.read_text().splitlines():
                if line.startswith("inotify "):
                    found.add(int(line.split("ino:")[1].split()[0], 16))
    return found


@contextlib.contextmanager
def waiting(shim: Path, place: Path, folder: Path) -> Iterator[Call]:
    """A call of the shim that is waiting for a change in the directory."""
    call = Call(shim, environ(place), CONFIG)
    until(lambda: folder.stat().st_ino in watched(call.process.pid), f"a watch of {folder}")
    try:
        yield call
    finally:
        call.process.kill()
        call.process.wait()


def serve_one(place: Path) -> None:
    with listening(place) as listener:
        peer = Peer(listener)
        peer.read_call()
        peer.say(frame.write_answer(0, b'{"a":1}'))


def test_shim_waits_for_an_agent_to_come(shim: Path, place: Path) -> None:
    with waiting(shim, place, place.parent) as call:
        serve_one(place)
        assert call.answer() == (0, {"a": 1})


def test_shim_waits_for_the_folders_of_the_socket(shim: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    inner = outer / "inner"
    with waiting(shim, inner / "agent.sock", tmp_path) as call:
        for folder in (outer, inner):
            folder.mkdir()
            until(lambda f=folder: f.stat().st_ino in watched(call.process.pid), f"a watch of {folder}")  # type: ignore[misc]
        serve_one(inner / "agent.sock")
        assert call.answer() == (0, {"a": 1})


def test_shim_waits_where_a_dead_agent_left_its_socket(shim: Path, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
        dead.listen()
    with waiting(shim, place, place.parent) as call:
        serve_one(place)
        assert call.answer() == (0, {"a": 1})


def test_shim_waits_on_after_it_was_stopped_and_continued(shim: Path, place: Path) -> None:
    with waiting(shim, place, place.parent) as call:
        call.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, call.process.pid, os.WSTOPPED | os.WEXITED)
        call.process.send_signal(signal.SIGCONT)
        serve_one(place)
        assert call.answer() == (0, {"a": 1})


def test_shim_waits_without_inotify(shim: Path, place: Path) -> None:
    # In a new user namespace, because the limit is set per user namespace.
    script = f"echo 0 >/proc/sys/user/max_inotify_instances; exec {shim}"
    call = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        env={**os.environ, **environ(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )

    def asleep() -> bool:
        status = Path(f"/proc/{call.pid}/status").read_text()
        return "Name:\twirespeed\n" in status and "State:\tS" in status

    until(asleep, "a shim that waits")
    assert not watched(call.pid)
    serve_one(place)
    assert call.communicate(timeout=PATIENCE)[0] == b'{"a":1}'
    assert call.returncode == 0


def test_closed_standard_input_is_an_empty_one(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        call = subprocess.Popen(["sh", "-c", f"exec {shim} <&-"], env=environ(place), stdout=subprocess.PIPE)
        peer = Peer(listener)
        assert peer.read_call().stdin == b""
        peer.say(frame.write_answer(0, b"{}"))
        assert (call.communicate(timeout=PATIENCE)[0], call.returncode) == (b"{}", 0)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "stdout",
    [closed_pipe, lambda: os.open("/dev/full", os.O_WRONLY), lambda: os.open("/dev/null", os.O_RDONLY)],
    ids=["closed pipe", "full", "not writable"],
)
@pytest.mark.parametrize("verb", ["ADD", "VERSION"])
def test_answer_that_nobody_can_read_is_no_success(
    shim: Path, place: Path, stdout: Callable[[], int], verb: str
) -> None:
    with listening(place) as listener:
        output = stdout()
        call = subprocess.Popen(
            [shim], env=environ(place, verb), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL
        )
        os.close(output)
        if verb == "ADD":
            peer = Peer(listener)
            peer.read_call()
            peer.say(frame.write_answer(0, b"{}"))
        assert call.wait(PATIENCE) == 1


def test_closed_standard_output_is_no_success(shim: Path, place: Path) -> None:
    with listening(place) as listener:
        call = subprocess.Popen(["sh", "-c", f"exec {shim} >&- 2>&-"], env=environ(place), stdin=subprocess.DEVNULL)
        peer = Peer(listener)
        peer.read_call()
        peer.say(frame.write_answer(0, b"{}"))
        assert call.wait(PATIENCE) == 1


def test_person_who_calls_it_is_told_what_it_is(shim: Path) -> None:
    ours, theirs = os.openpty()
    call = subprocess.run([shim], stdin=theirs, capture_output=True, timeout=PATIENCE, check=False, env={})
    os.close(ours)
    os.close(theirs)
    assert call.returncode == 1
    assert b"called by a container runtime" in call.stderr
