"""The agent's server: receives calls on the socket, runs them in order in worker threads, and answers them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from wirespeed.agent import frame, hotplug
from wirespeed.agent.lanes import Lanes, Turn
from wirespeed.agent.listener import Listener
from wirespeed.cni import dispatch
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.plugin import Plugin
from wirespeed.cni.request import VERBS
from wirespeed.kube.cluster import asked_until
from wirespeed.node import ALIASES, Node
from wirespeed.system.inotify import FolderWatch

log = logging.getLogger(__name__)

_SEND_TIME = 10.0  # seconds for a caller to take its answer
_RECEIVE_TIME = 10.0  # seconds for a caller to send its call
_FULL_TIME = 1.0  # seconds until connections are accepted again after EMFILE, if none is closed before
_LOOK = 1.0  # seconds between checks of the socket's path: inotify does not report a mount over its folder
_UNDO_TIME = 10.0  # seconds at most, after its deadline, for a call to undo what it began, when the agent ends
_PIECE = 1 << 18
_ATTACHING = frozenset({"ADD"}) | hotplug.VERBS  # these wait for the API server
_ORDERED = frozenset({"ADD", "DEL", "CHECK"}) | hotplug.VERBS
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(eq=False)
class _Caller:
    """A connection whose call is not yet complete."""

    socket: socket.socket
    pid: int
    until: float = field(default_factory=lambda: time.monotonic() + _RECEIVE_TIME)
    received: bytearray = field(default_factory=bytearray)


@dataclass(eq=False, kw_only=True)
class _Job(Turn):
    """A running or waiting call; `arrived` and `deadline` are time.monotonic() values."""

    call: frame.Call
    socket: socket.socket
    arrived: float
    deadline: float

    @property
    def verb(self) -> str:
        return self.call.environ.get("CNI_COMMAND", "")


# Called for each answered call with its plugin, verb, error code (0 for success) and seconds since its arrival.
Observer = Callable[[str, str, int, float], None]


class Server:
    """Serves the node's plugins on the agent's socket, which it recreates if another program removes it.

    One thread, that of `run`, receives calls and keeps their order (see `Lanes`). For each plugin,
    `node.config.workers` threads run the calls that attach, and as many run the others. Each call has
    `node.config.deadline` seconds from its arrival, including the time in the queue.
    """

    def __init__(self, node: Node, listener: Listener, observe: Observer = lambda *_: None) -> None:
        self._node, self._listener, self._observe = node, listener, observe
        self.displaced = False  # whether it ended because it could not keep the socket at its path
        self._watch: FolderWatch | None = None  # the watch that is registered in the selector
        self._problem = ""  # the journal's problem that was logged last
        self._look_at = 0.0  # when the socket's path is checked without an event
        self._lanes: Lanes[_Job] = Lanes(node.config.workers)
        self._callers: set[_Caller] = set()
        self._finished: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._stopping = False
        self._full_until: float | None = None  # when to accept connections again; None: they are being accepted
        self._selector = selectors.DefaultSelector()
        # `waker` is written by workers and, by signal.set_wakeup_fd, on signals.
        self._woken, self.waker = socket.socketpair()
        self._woken.setblocking(False)
        self.waker.setblocking(False)
        self._begun: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._workers = 0  # threads: as many as calls have ever run at once, so that no call waits for a thread

    def stop(self) -> None:
        """End `run`, from any thread or signal handler."""
        self._stopping = True
        self._wake()

    def run(self) -> bool:
        """Serve until `stop`; then finish the running calls and leave the waiting ones to the next agent.

        Return whether all running calls have finished; they have time until a little after their deadlines.
        """
        self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
        self._follow_path()
        self._selector.register(self._woken, selectors.EVENT_READ, self._wakened)
        try:
            while not self._stopping:
                self._turn(self._next_expiry())
            self._hand_over()
            last = max((job.deadline for job in self._lanes.running), default=0.0)
            until = last + min(_UNDO_TIME, self._node.config.deadline)
            while any(self._lanes.running) and time.monotonic() < until:
                self._turn(until)
            return not any(self._lanes.running)
        finally:
            self._selector.close()
            for _ in range(self._workers):
                self._begun.put(None)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full, so `run` will wake anyway
            self.waker.send(b"\0")

    def _turn(self, until: float | None) -> None:
        """Wait for events up to the moment `until`, handle them, and do what is due."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if self._selector.get_map().get(key.fd) is key:  # not closed or changed by an earlier event's handler
                key.data()
        self._expire()
        while not self._finished.empty():
            self._begin(self._lanes.finish(self._finished.get()))
            self._room()

    def _wakened(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    # Callers: from a connection to a complete call

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                log.warning("a connection failed: %s", error)
                return
            log.warning("no more connections for now: %s", error.strerror)
            self._selector.unregister(self._listener.socket)  # callers wait in the kernel's queue
            self._full_until = time.monotonic() + _FULL_TIME
            return
        self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        caller = _Caller(connection, pid)
        if uid not in {0, os.geteuid()}:
            self._refuse(caller, CniError(Code.POLICY, f"the agent serves root, not user {uid}"))
            return
        self._callers.add(caller)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(caller))
        self._receive(caller)

    def _room(self) -> None:
        """Accept connections again, as there may be free descriptors now."""
        if self._full_until is not None and not self._stopping:
            self._full_until = None
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def _follow_path(self) -> None:
        """Recreate the socket if it is no longer at its path; clients connected to the old one are still served."""
        self._look_at = time.monotonic() + _LOOK
        self._keep_journal()
        registered = self._full_until is None
        if self._watch is not None:  # unregister before it is closed and its descriptor reused
            self._selector.unregister(self._watch)
            self._watch = None
        try:
            old = self._listener.renewed()
        except CniError as error:
            log.error("%s: this agent ends", error.msg)  # noqa: TRY400 — a refusal
            self.displaced = True
            self.stop()
            return
        if old is not None:
            with old:
                if registered:
                    self._selector.unregister(old)
                    self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
                with contextlib.suppress(OSError):  # BlockingIOError when there are no more connections
                    while True:
                        self._take(old.accept()[0])
        self._watch = self._listener.watch
        if self._watch is not None:
            self._selector.register(self._watch, selectors.EVENT_READ, self._follow_path)

    def _keep_journal(self) -> None:
        problem = ""
        try:
            if self._node.keep():
                log.warning("journal %s was removed: it is written anew", self._node.config.state)
        except CniError as error:
            problem = error.msg
        if problem and problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    def _receive(self, caller: _Caller) -> None:
        try:
            piece = caller.socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            log.warning("a caller left before its call was whole", extra={"fields": {"pid": caller.pid}})
            self._drop(caller)
            return
        caller.received += piece
        try:
            call = frame.take_call(caller.received)
        except CniError as error:
            self._refuse(caller, error)
            return
        if call is not None:
            self._callers.discard(caller)
            self._arrive(call, caller.socket)

    def _refuse(self, caller: _Caller, error: CniError) -> None:
        log.warning("refused: %s", error.msg, extra={"fields": {"pid": caller.pid, "code": error.code}})
        _send_now(caller.socket, frame.write_answer(1, error.to_json("1.0.0")))
        self._drop(caller)

    def _drop(self, caller: _Caller) -> None:
        self._callers.discard(caller)
        self._close(caller.socket)

    def _close(self, connection: socket.socket) -> None:
        """Close a connection that no worker uses."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()
        self._room()

    # Jobs: from a complete call to its answer

    def _arrive(self, call: frame.Call, connection: socket.socket) -> None:
        verb = call.environ.get("CNI_COMMAND", "")
        now = time.monotonic()
        job = _Job(
            lane=ALIASES.get(call.name, call.name) if call.name in self._node.plugins else "",
            container=call.environ.get("CNI_CONTAINERID", "") if verb in _ORDERED else "",
            alone=verb == "GC",
            brief=verb not in _ATTACHING,
            call=call,
            socket=connection,
            arrived=now,
            deadline=now + self._node.config.deadline,
        )
        begun = self._lanes.arrive(job)
        if job not in begun:
            log.debug("waits for its turn", extra={"fields": _fields(job)})
            self._selector.modify(connection, selectors.EVENT_READ, lambda: self._left(job))
        self._begin(begun)

    def _left(self, job: _Job) -> None:
        """Drop a waiting call whose caller has left, as nobody would get its result."""
        log.warning("its caller left while it waited for its turn", extra={"fields": _fields(job)})
        self._withdraw(job)

    def _withdraw(self, job: _Job) -> None:
        begun = self._lanes.withdraw(job)
        self._close(job.socket)
        self._begin(begun)

    def _begin(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            self._selector.unregister(job.socket)
            self._begun.put(job)
        while len(list(self._lanes.running)) > self._workers:
            self._workers += 1
            threading.Thread(target=self._work, name=f"worker-{self._workers}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._begun.get()) is not None:
            self._serve(job)

    def _serve(self, job: _Job) -> None:
        """Run a call and answer it, in a worker thread."""
        try:
            answer = self._answer(job)
            self._tell(job, answer, delivered=_deliver(job.socket, answer))
        except Exception:
            log.exception("answering failed", extra={"fields": _fields(job)})
        finally:
            job.socket.close()
            self._finished.put(job)
            self._wake()

    def _answer(self, job: _Job) -> dispatch.Answer:
        with asked_until(job.deadline) if job.verb in _ATTACHING else contextlib.nullcontext():
            return self._answered(job)

    def _answered(self, job: _Job) -> dispatch.Answer:
        call = job.call
        if job.verb in hotplug.VERBS:
            return hotplug.answer(self._node, call, deadline=job.deadline)
        return dispatch.answer(
            lambda: self._node.plugin(call.name), call.environ, call.stdin, deadline=job.deadline
        )

    def _tell(self, job: _Job, answer: dispatch.Answer, *, delivered: bool) -> None:
        error: dict[str, Any] = json.loads(answer.stdout) if answer.exit_code else {"code": 0, "msg": ""}
        verb = job.verb if job.verb in hotplug.VERBS.union(VERBS) else "unknown"
        self._observe(job.lane or "unknown", verb, error["code"], time.monotonic() - job.arrived)
        fields = {**_fields(job), "code": error["code"], "error": error["msg"]}
        if not delivered:
            fields["caller"] = "left before the answer"
        if answer.exit_code:
            log.error("failed", extra={"fields": fields})
        else:
            log.info("served", extra={"fields": fields})

    # Time, and the end

    def _next_expiry(self) -> float | None:
        moments = [self._look_at, *(job.deadline for job in self._lanes.waiting)]
        moments += [caller.until for caller in self._callers]
        if self._full_until is not None:
            moments.append(self._full_until)
        return min(moments, default=None)

    def _expire(self) -> None:
        now = time.monotonic()
        if self._look_at <= now and not self._stopping:
            self._follow_path()
        if self._full_until is not None and self._full_until <= now:
            self._room()
        for caller in [caller for caller in self._callers if caller.until <= now]:
            self._refuse(caller, CniError(Code.IO_FAILURE, f"no whole call within {_RECEIVE_TIME:g} s"))
        for job in [job for job in self._lanes.waiting if job.deadline <= now]:
            what = f"container {job.container}" if job.container else "this call"
            answer = _refusal(
                job,
                CniError(
                    Code.TRY_AGAIN_LATER,
                    f"{job.verb}: calls before it took the {self._node.config.deadline:g} s that {what} has",
                ),
            )
            _send_now(job.socket, frame.write_answer(*answer))
            self._tell(job, answer, delivered=True)
            self._withdraw(job)

    def _hand_over(self) -> None:
        """Answer every call that has not begun with AGAIN, so that the shim sends it to the next agent."""
        log.info("ending", extra={"fields": {"running": len(list(self._lanes.running))}})
        self._node.hasten()
        self._listener.remove()  # shims that are called from now on wait for the next agent's socket
        if self._watch is not None:
            self._selector.unregister(self._watch)
        if self._full_until is None:
            self._selector.unregister(self._listener.socket)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.socket.accept()
                _send_now(connection, frame.write_answer(frame.AGAIN))
                connection.close()
        self._listener.socket.close()
        for caller in list(self._callers):
            _send_now(caller.socket, frame.write_answer(frame.AGAIN))
            self._drop(caller)
        # Last arrived first: withdrawing a call could start one that waits behind it.
        for job in reversed(list(self._lanes.waiting)):
            log.info("handed to the next agent", extra={"fields": _fields(job)})
            _send_now(job.socket, frame.write_answer(frame.AGAIN))
            self._withdraw(job)


def _send_now(connection: socket.socket, answer: bytes) -> None:
    """Send a short answer without waiting; errors do not matter, as the caller is then gone."""
    with contextlib.suppress(OSError):
        connection.send(answer, socket.MSG_DONTWAIT)


def _deliver(connection: socket.socket, answer: dispatch.Answer) -> bool:
    """Send the answer; return whether the caller has received it."""
    try:
        connection.settimeout(_SEND_TIME)
        connection.sendall(frame.write_answer(*answer))
    except OSError:
        return False
    return True


def _refusal(job: _Job, error: CniError) -> dispatch.Answer:
    """Return an error as the answer to a call, in the version of its configuration."""
    if job.verb in hotplug.VERBS:
        return hotplug.refused(error)

    def no_plugin() -> Plugin:
        raise error

    return dispatch.answer(no_plugin, job.call.environ, job.call.stdin)


def _fields(job: _Job) -> dict[str, object]:
    return {
        "verb": job.verb,
        "plugin": job.call.name,
        "container": job.call.environ.get("CNI_CONTAINERID", ""),
        "ifname": job.call.environ.get("CNI_IFNAME", ""),
        "ms": (time.monotonic() - job.arrived) * 1000,
    }
