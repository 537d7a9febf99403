"""The server in a thread of the test, with slow callers."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from wirespeed.agent import server as server_module
from wirespeed.agent.listener import Listener, Lock
from wirespeed.agent.server import Server
from wirespeed.cni.plugin import Plugin, Result
from wirespeed.cni.request import Request
from wirespeed.node import Node, NodeConfig

PATIENCE = 30.0
LARGE = 8 << 20  # bytes, more than a socket's buffer


class Talker:
    """A plugin with large results."""

    def add(self, request: Request) -> Result:
        return {"interfaces": [{"name": "x" * LARGE}]}

    def delete(self, request: Request) -> None:
        pass

    check = gc = status = delete


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """A server whose only plugin is `meta`. Yields the path of its socket."""
    node = Node(NodeConfig(workers=1))
    node.__dict__["plugins"] = {"meta": cast(Plugin, Talker())}
    path = folder / "agent.sock"
    with contextlib.closing(Lock(path)) as lock, contextlib.closing(Listener(path, lock)) as listener:
        server = Server(node, listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield path
        finally:
            server.stop()
            thread.join(PATIENCE)
    assert not thread.is_alive()


@contextlib.contextmanager
def connected(path: Path, sent: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(str(path))
        caller.sendall(sent)
        yield caller


def call(verb: str) -> bytes:
    config = json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "meta"}).encode()
    variables = (
        b"CNI_COMMAND=" + verb.encode(),
        b"CNI_CONTAINERID=c",
        b"CNI_NETNS=/n",
        b"CNI_IFNAME=i",
        b"CNI_PATH=/p",
    )
    payload = b"\0".join((b"meta", *variables)) + b"\0\0" + config
    return b"WSP1" + struct.pack(">I", len(payload)) + payload


def received(caller: socket.socket) -> bytes:
    with caller.makefile("rb") as answer:
        return answer.read()


def test_caller_that_sends_no_whole_call_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_RECEIVE_TIME", 0.05)
    with serving(tmp_path) as path, connected(path, b"WSP1") as caller:
        assert b"no complete call within 0.05 s" in received(caller)


def test_caller_that_does_not_take_its_answer_keeps_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_SEND_TIME", 0.05)
    with serving(tmp_path) as path, connected(path, call("ADD")), connected(path, call("DEL")) as next_caller:
        assert received(next_caller) == b"\0" * 8


def test_stopped_server_hands_over_callers_that_have_not_sent_their_call(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with serving(tmp_path) as path:
            caller = stack.enter_context(connected(path, b"WSP1"))
            # Once this call is answered, the server has handled both.
            with connected(path, call("DEL")) as other:
                assert received(other) == b"\0" * 8
        assert received(caller) == b"\xff\xff\xff\xff\0\0\0\0"


def test_large_answer_reaches_a_caller_that_takes_it(tmp_path: Path) -> None:
    with serving(tmp_path) as path, connected(path, call("ADD")) as caller:
        answer = received(caller)
    status, length = struct.unpack(">II", answer[:8])
    assert (status, length) == (0, len(answer) - 8)
    assert len(json.loads(answer[8:])["interfaces"][0]["name"]) == LARGE
