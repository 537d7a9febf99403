"""Registers the pools' sockets with the kubelet, and again with the next one after it has restarted."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import grpc

from wirespeed.deviceplugin import sockets
from wirespeed.deviceplugin.service import VERSION
from wirespeed.deviceplugin.sockets import Identity, Socket
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp

log = logging.getLogger(__name__)

_ANSWER = 30.0  # seconds for the kubelet to answer: before it does, it calls back, for which it takes up to 10
_PAUSE = 5.0  # seconds until a registration that failed is tried again
_SERVICE = dp.DESCRIPTOR.services_by_name["Registration"]
_NOBODY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a new kubelet is reached at once, whatever an old channel waits for
    # The socket of a kubelet that starts is there a moment before it listens.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Registrar:
    """Registers sockets with the kubelet at `path`, each once and with one call at a time.

    It is readable (`fileno`) when there is something for `update` to do. One thread uses it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kubelet: Identity | None = None
        self._told = False  # that there is none, or that it does not answer
        self._channel: grpc.Channel | None = None
        self._calls: dict[Socket, Any] = {}
        self._registered: set[Socket] = set()
        self._failed: dict[Socket, float] = {}  # when to try again, a time.monotonic()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def fileno(self) -> int:
        return self._woken.fileno()

    def timeout(self) -> float | None:
        """ms until `update` has something to do even if nothing happens; None: it has not."""
        wait = min(self._failed.values(), default=None)
        return None if wait is None else max(0.0, wait - time.monotonic()) * 1000

    def close(self) -> None:
        """End what is under way."""
        self._forget()
        self._waker.close()
        self._woken.close()

    def update(self, pools: Collection[Socket], anew: Iterable[Socket]) -> None:
        """Register those of the pools that this kubelet does not know; those served `anew` it knows no more.

        Pools that are no more among them are forgotten.
        """
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(1 << 16)
        self._see_kubelet()
        known = self._registered | self._calls.keys() | self._failed.keys()
        for pool in (*anew, *(pool for pool in known if pool not in pools)):
            self._registered.discard(pool)
            self._failed.pop(pool, None)
            if call := self._calls.pop(pool, None):
                call.cancel()
        self._end_calls()
        known = self._registered | self._calls.keys() | self._failed.keys()
        for pool in pools if self._kubelet else ():
            if pool not in known and pool.is_ours:
                self._register(pool)
        if self._channel and not self._calls:
            self._channel.close()
            self._channel = None

    def _see_kubelet(self) -> None:
        """Forget the kubelet that was there when there is another one, or none."""
        kubelet = sockets.identity(self._path)
        if kubelet != self._kubelet:
            self._forget()
            self._kubelet, self._told = kubelet, False
        if kubelet is None and not self._told:
            log.info("waiting for the kubelet, for its socket %s", self._path)
            self._told = True

    def _forget(self) -> None:
        for call in self._calls.values():
            call.cancel()
        for known in (self._calls, self._registered, self._failed):
            known.clear()
        if self._channel:
            self._channel.close()
            self._channel = None

    def _register(self, pool: Socket) -> None:
        self._channel = self._channel or rpc.channel(str(self._path), options=_OPTIONS)
        request = dp.RegisterRequest(
            version=VERSION,
            endpoint=pool.path.name,
            resource_name=pool.service.pool.resource,
            options=pool.service.options,
        )
        call = rpc.Client(self._channel, _SERVICE).Register.future(  # type: ignore[attr-defined]
            request, timeout=_ANSWER, wait_for_ready=True
        )
        self._calls[pool] = call
        call.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        """From a thread of gRPC's, also after `close`."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _end_calls(self) -> None:
        """Take the answers that have come."""
        now = time.monotonic()
        self._failed = {pool: moment for pool, moment in self._failed.items() if moment > now}
        for pool, call in [(pool, call) for pool, call in self._calls.items() if call.done()]:
            del self._calls[pool]
            resource, code = pool.service.pool.resource, call.code()
            if code is grpc.StatusCode.OK:
                self._registered.add(pool)
                log.info("resource %s is registered", resource)
                continue
            self._failed[pool] = now + _PAUSE
            if code not in _NOBODY:
                log.error("resource %s: the kubelet refuses: %s", resource, call.details())
            elif not self._told:
                log.warning("the kubelet does not answer on %s: %s; trying on", self._path, call.details())
                self._told = True
