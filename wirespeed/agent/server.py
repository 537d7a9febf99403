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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wirespeed.agent import frame, hotplug, loglevel
from wirespeed.agent.lanes import Lanes, Turn
from wirespeed.agent.listener import Listener
from wirespeed.cni import dispatch
from wirespeed.cni.errors import code_of, to_json
from wirespeed.cni.plugin import Plugin
from wirespeed.cni.request import VERBS, pod_of
from wirespeed.errors import Error, Kind
from wirespeed.kube.cluster import retry_until
from wirespeed.live import RunningCall
from wirespeed.metrics import Family
from wirespeed.node import ALIASES, Node
from wirespeed.state.calls import Call
from wirespeed.system.inotify import FolderWatch
from wirespeed.trace import Trace, step, tracing

log = logging.getLogger(__name__)

_SEND_TIME = 10.0  # seconds for a caller to take its answer
_RECEIVE_TIME = 10.0  # seconds for a caller to send its call
_ACCEPT_PAUSE = 1.0  # seconds until connections are accepted again after EMFILE, if none is closed before
_CHECK_INTERVAL = 1.0  # seconds between checks of the socket's path: inotify does not report mounts over its folder
_UNDO_TIME = 10.0  # seconds at most, after its deadline, for a call to undo what it began, when the agent ends
_CHUNK = 1 << 18
_LONG_VERBS = frozenset({"ADD"}) | hotplug.VERBS  # these wait for the API server
_CONTAINER_VERBS = frozenset({"ADD", "DEL", "CHECK"}) | hotplug.VERBS
_AGENT_VERBS = frozenset({loglevel.VERB, frame.VIEW})  # about the agent: they never wait for a plugin's calls
_OWN_VERBS = hotplug.VERBS | _AGENT_VERBS
_KNOWN_VERBS = _OWN_VERBS.union(VERBS)
_KEPT_VERBS = frozenset({"ADD", "DEL", "GC"}) | hotplug.VERBS  # in the history even if they succeed
_OFTEN = frozenset({"STATUS", frame.VIEW})  # runtimes and people repeat them: their failures would fill the history
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
    trace: Trace

    @property
    def verb(self) -> str:
        return self.call.environ.get("CNI_COMMAND", "")


# Called for each answered call with its plugin, verb, error code (0: success), seconds since its arrival, trace id.
Observer = Callable[[str, str, int, float, str], None]
Export = Callable[[Call], None]  # called for each call that the history gets; must not wait


class Server:
    """Serves the node's plugins on the agent's socket, which it recreates if another program removes it.

    One thread, that of `run`, receives calls and keeps their order (see `Lanes`). For each plugin,
    `node.config.workers` threads run the calls that attach, and as many run the others. Each call has
    `node.config.deadline` seconds from its arrival, including the time in the queue.
    """

    def __init__(
        self,
        node: Node,
        listener: Listener,
        observe: Observer = lambda *_: None,
        export: Export = lambda _: None,
    ) -> None:
        self._node, self._listener, self._observe, self._export = node, listener, observe, export
        self.lost_socket = False  # whether it ended because it could not keep the socket at its path
        self._watch: FolderWatch | None = None  # the watch that is registered in the selector
        self._problem = ""  # the journal's problem that was logged last
        self._next_check = 0.0  # when the socket's path is checked without an event
        self._lanes: Lanes[_Job] = Lanes(node.config.workers)
        self._callers: set[_Caller] = set()
        self._finished: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._stopping = False
        self._accept_paused_until: float | None = None  # None: connections are being accepted
        self._selector = selectors.DefaultSelector()
        # `waker` is written by workers and, by signal.set_wakeup_fd, on signals.
        self._wakeup_reader, self.waker = socket.socketpair()
        self._wakeup_reader.setblocking(False)
        self.waker.setblocking(False)
        self._start_queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        node.live.calls = self.running_calls
        self._workers = 0  # threads: as many as calls have ever run at once, so that no call waits for a thread
        self._levels = loglevel.LogLevels()
        node.metrics.append(self.metrics)

    def metrics(self) -> Iterator[Family]:
        """Yield how many calls run and wait, by plugin (`wirespeed.metrics`)."""
        running = Family("wirespeed_cni_requests_running", "gauge", "CNI calls that run", ("plugin",))
        waiting = Family("wirespeed_cni_requests_waiting", "gauge", "CNI calls that wait for others", ("plugin",))
        for lane, length in self._lanes.lengths().items():
            running.add(lane or "unknown", value=length.running)
            waiting.add(lane or "unknown", value=length.waiting)
        yield from (running, waiting)

    def running_calls(self) -> list[RunningCall]:
        """Report the calls that have no answer yet, the oldest first; from any thread."""
        now = time.monotonic()
        jobs = [job for job in (*self._lanes.running, *self._lanes.waiting) if job.container or job.exclusive]
        jobs.sort(key=lambda job: job.arrived)
        return [
            RunningCall(
                verb=job.verb,
                plugin=job.call.name,
                container=job.container,
                pod=job.trace.pod,
                seconds=now - job.arrived,
                step=" > ".join(step.name for step in job.trace.current()),
            )
            for job in jobs
        ]

    def stop(self) -> None:
        """End `run`, from any thread or signal handler."""
        self._stopping = True
        self._wake()

    def run(self) -> bool:
        """Serve until `stop`; then finish the running calls and leave the waiting ones to the next agent.

        Return whether all running calls have finished; they have time until a little after their deadlines.
        """
        self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
        self._check_socket()
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ, self._drain_wakeups)
        try:
            while not self._stopping:
                self._handle_events(self._next_timeout())
            self._hand_over()
            last = max((job.deadline for job in self._lanes.running), default=0.0)
            until = last + min(_UNDO_TIME, self._node.config.deadline)
            while any(self._lanes.running) and time.monotonic() < until:
                self._handle_events(until)
            return not any(self._lanes.running)
        finally:
            self._selector.close()
            for _ in range(self._workers):
                self._start_queue.put(None)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full, so `run` will wake anyway
            self.waker.send(b"\0")

    def _handle_events(self, until: float) -> None:
        """Wait for events until `until`; handle them, timeouts and finished calls."""
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            if self._selector.get_map().get(key.fd) is key:  # not closed or changed by an earlier event's handler
                key.data()
        self._handle_timeouts()
        while not self._finished.empty():
            self._start(self._lanes.finish(self._finished.get()))
            self._resume_accepting()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup_reader.recv(4096):
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
            self._accept_paused_until = time.monotonic() + _ACCEPT_PAUSE
            return
        self._add_caller(connection)

    def _add_caller(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        caller = _Caller(connection, pid)
        if uid not in {0, os.geteuid()}:
            self._refuse(caller, Error(Kind.POLICY, f"only root may call the agent, not user {uid}"))
            return
        self._callers.add(caller)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(caller))
        self._receive(caller)

    def _resume_accepting(self) -> None:
        """Accept connections again, as there may be free descriptors now."""
        if self._accept_paused_until is not None and not self._stopping:
            self._accept_paused_until = None
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def _check_socket(self) -> None:
        """Recreate the socket if it is no longer at its path, and serve the clients connected to the old one."""
        self._next_check = time.monotonic() + _CHECK_INTERVAL
        self._check_journal()
        registered = self._accept_paused_until is None
        if self._watch is not None:  # unregister before it is closed and its descriptor reused
            self._selector.unregister(self._watch)
            self._watch = None
        try:
            old = self._listener.recreate_if_replaced()
        except Error as error:
            log.error("%s: this agent ends", error.msg)  # noqa: TRY400 — a refusal
            self.lost_socket = True
            self.stop()
            return
        if old is not None:
            with old:
                if registered:
                    self._selector.unregister(old)
                    self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
                with contextlib.suppress(OSError):  # BlockingIOError when there are no more connections
                    while True:
                        self._add_caller(old.accept()[0])
        self._watch = self._listener.watch
        if self._watch is not None:
            self._selector.register(self._watch, selectors.EVENT_READ, self._check_socket)

    def _check_journal(self) -> None:
        problem = ""
        try:
            if self._node.recreate_journal():
                log.warning("journal %s was removed: recreated", self._node.config.state)
        except Error as error:
            problem = error.msg
        if problem and problem != self._problem:
            log.error("%s", problem)
        self._problem = problem

    def _receive(self, caller: _Caller) -> None:
        try:
            chunk = caller.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            text = "a caller closed its connection before its call was complete"
            log.warning(text, extra={"fields": {"pid": caller.pid}})
            self._drop(caller)
            return
        caller.received += chunk
        try:
            call = frame.parse_call(caller.received)
        except Error as error:
            self._refuse(caller, error)
            return
        if call is not None:
            self._callers.discard(caller)
            self._enqueue(call, caller.socket)

    def _refuse(self, caller: _Caller, error: Error) -> None:
        log.warning("refused: %s", error.msg, extra={"fields": {"pid": caller.pid, "code": code_of(error)}})
        _send_now(caller.socket, frame.write_answer(1, to_json(error, "1.0.0")))
        self._drop(caller)

    def _drop(self, caller: _Caller) -> None:
        self._callers.discard(caller)
        self._close(caller.socket)

    def _close(self, connection: socket.socket) -> None:
        """Close a connection that no worker uses."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()
        self._resume_accepting()

    # Jobs: from a complete call to its answer

    def _enqueue(self, call: frame.Call, connection: socket.socket) -> None:
        verb = call.environ.get("CNI_COMMAND", "")
        now = time.monotonic()
        job = _Job(
            lane=self._lane(call, verb),
            container=call.environ.get("CNI_CONTAINERID", "") if verb in _CONTAINER_VERBS else "",
            exclusive=verb == "GC",
            short=verb not in _LONG_VERBS,
            call=call,
            socket=connection,
            arrived=now,
            deadline=now + self._node.config.deadline,
            trace=_trace(call, now),
        )
        started = self._lanes.enqueue(job)
        if job not in started:
            log.debug("queued", extra={"fields": _fields(job)})
            self._selector.modify(connection, selectors.EVENT_READ, lambda: self._caller_left(job))
        self._start(started)

    def _lane(self, call: frame.Call, verb: str) -> str:
        if verb in _AGENT_VERBS:
            return "agent"
        return ALIASES.get(call.name, call.name) if call.name in self._node.plugins else ""

    def _caller_left(self, job: _Job) -> None:
        """Drop a waiting call whose caller has closed its connection."""
        log.warning("its caller left while it was queued", extra={"fields": _fields(job)})
        self._cancel(job)

    def _cancel(self, job: _Job) -> None:
        started = self._lanes.cancel(job)
        self._close(job.socket)
        self._start(started)

    def _start(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            self._selector.unregister(job.socket)
            self._start_queue.put(job)
        while len(list(self._lanes.running)) > self._workers:
            self._workers += 1
            threading.Thread(target=self._work, name=f"worker-{self._workers}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._start_queue.get()) is not None:
            self._serve(job)

    def _serve(self, job: _Job) -> None:
        """Run a call and answer it, in a worker thread."""
        try:
            job.trace.add("wait for other calls", job.arrived, time.monotonic())
            with tracing(job.trace):
                answer = self._answer(job)
                with step("send the answer"):
                    delivered = _deliver(job.socket, answer)
            self._log_answer(job, answer, delivered=delivered)
        except Exception:
            log.exception("answering failed", extra={"fields": _fields(job)})
        finally:
            job.socket.close()
            self._finished.put(job)
            self._wake()

    def _answer(self, job: _Job) -> dispatch.Answer:
        call, deadline = job.call, job.deadline
        with retry_until(deadline) if job.verb in _LONG_VERBS else contextlib.nullcontext():
            if job.verb == frame.VIEW:
                from wirespeed.agent import views  # noqa: PLC0415 — only once somebody looks

                return views.answer(self._node, call)
            if job.verb in hotplug.VERBS:
                return hotplug.answer(self._node, call, deadline=deadline)
            if job.verb == loglevel.VERB:
                return self._levels.answer(call)
            return dispatch.answer(
                lambda: self._node.plugin(call.name), call.environ, call.stdin, deadline=deadline
            )

    def _log_answer(self, job: _Job, answer: dispatch.Answer, *, delivered: bool) -> None:
        error: dict[str, Any] = json.loads(answer.stdout) if answer.exit_code else {"code": 0, "msg": ""}
        verb = job.verb if job.verb in _KNOWN_VERBS else "unknown"
        call = _finished_call(job, error)
        self._observe(job.lane or "unknown", verb, error["code"], call.seconds, call.trace)
        if verb in _KEPT_VERBS or (call.code and verb not in _OFTEN):
            self._node.calls.append(call)
            self._export(call)
        _log_steps(call)
        fields = {**_fields(job), "code": error["code"], "error": error["msg"]}
        if not delivered:
            fields["caller"] = "left before the answer"
        if answer.exit_code:
            log.error("failed", extra={"fields": fields})
        else:
            log.info("served", extra={"fields": fields})

    # Time, and the end

    def _next_timeout(self) -> float:
        moments = [self._next_check, *(job.deadline for job in self._lanes.waiting)]
        moments += [caller.until for caller in self._callers]
        if self._accept_paused_until is not None:
            moments.append(self._accept_paused_until)
        return min(moments)

    def _handle_timeouts(self) -> None:
        now = time.monotonic()
        if self._next_check <= now and not self._stopping:
            self._check_socket()
        if self._accept_paused_until is not None and self._accept_paused_until <= now:
            self._resume_accepting()
        for caller in [caller for caller in self._callers if caller.until <= now]:
            self._refuse(caller, Error(Kind.IO, f"no complete call within {_RECEIVE_TIME:g} s"))
        for job in [job for job in self._lanes.waiting if job.deadline <= now]:
            what = f"container {job.container}" if job.container else "this call"
            text = f"{what} waited {self._node.config.deadline:g} s for calls before it"
            answer = _error_answer(job, Error(Kind.TRY_AGAIN, text, where=job.verb))
            _send_now(job.socket, frame.write_answer(*answer))
            self._log_answer(job, answer, delivered=True)
            self._cancel(job)

    def _hand_over(self) -> None:
        """Answer every call that has not begun with AGAIN, so that the shim sends it to the next agent."""
        log.info("ending", extra={"fields": {"running": len(list(self._lanes.running))}})
        self._node.stop_retries()
        self._listener.remove()  # shims that are called from now on wait for the next agent's socket
        if self._watch is not None:
            self._selector.unregister(self._watch)
        if self._accept_paused_until is None:
            self._selector.unregister(self._listener.socket)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.socket.accept()
                _send_now(connection, frame.write_answer(frame.TRY_NEXT_AGENT))
                connection.close()
        self._listener.socket.close()
        for caller in list(self._callers):
            _send_now(caller.socket, frame.write_answer(frame.TRY_NEXT_AGENT))
            self._drop(caller)
        # Last arrived first: cancelling a call could start one that is queued behind it.
        for job in reversed(list(self._lanes.waiting)):
            log.info("handed to the next agent", extra={"fields": _fields(job)})
            _send_now(job.socket, frame.write_answer(frame.TRY_NEXT_AGENT))
            self._cancel(job)


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


def _error_answer(job: _Job, error: Error) -> dispatch.Answer:
    """Return an error as the answer to a call, in the version of its configuration."""
    if job.verb in _OWN_VERBS:
        return hotplug.error_answer(error)

    def no_plugin() -> Plugin:
        raise error

    return dispatch.answer(no_plugin, job.call.environ, job.call.stdin)


def _trace(call: frame.Call, now: float) -> Trace:
    """Return the trace of a call, whose arguments are not checked yet."""
    arguments = dict(part.partition("=")[::2] for part in call.environ.get("CNI_ARGS", "").split(";"))
    return Trace(now, pod=pod_of(arguments), uid=arguments.get("K8S_POD_UID", ""))


def _finished_call(job: _Job, error: Mapping[str, Any]) -> Call:
    """Return the record of a call that has been answered; `error` is the specification's error object."""
    trace = job.trace
    return Call(
        trace=trace.id,
        verb=job.verb,
        plugin=job.call.name,
        container=job.call.environ.get("CNI_CONTAINERID", ""),
        ifname=job.call.environ.get("CNI_IFNAME", ""),
        pod=trace.pod,
        uid=trace.uid,
        at=trace.at,
        seconds=time.monotonic() - job.arrived,
        code=error["code"],
        error=error["msg"],
        details=error.get("details", ""),
        steps=trace.steps,
    )


def _log_steps(call: Call) -> None:
    """Log a line for each step; a step that failed is a warning."""
    with_all = log.isEnabledFor(logging.DEBUG)
    for each in call.steps:
        if each.error or with_all:
            fields = {"trace": call.trace, "pod": call.pod, "ms": each.seconds * 1000, **each.about}
            level = logging.WARNING if each.error else logging.DEBUG
            log.log(level, "step: %s", each.name, extra={"fields": {**fields, "error": each.error}})


def _fields(job: _Job) -> dict[str, object]:
    return {
        "verb": job.verb,
        "plugin": job.call.name,
        "container": job.call.environ.get("CNI_CONTAINERID", ""),
        "ifname": job.call.environ.get("CNI_IFNAME", ""),
        "pod": job.trace.pod,
        "trace": job.trace.id,
        "ms": (time.monotonic() - job.arrived) * 1000,
    }
