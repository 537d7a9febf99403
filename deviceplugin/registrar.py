"""Registers the pools' sockets with the kubelet, and again after the kubelet has restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import grpc

from wirespeed.deviceplugin import sockets
from wirespeed.deviceplugin.service import VERSION
from wirespeed.deviceplugin.sockets import Identity, Socket
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp

log = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 30.0  # seconds; before the kubelet replies, it connects to the pool's socket, for up to 10 s
_PAUSE = 5.0  # seconds until a failed registration is retried
_SERVICE = dp.DESCRIPTOR.services_by_name["Registration"]
_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # connect to a new kubelet at once, without an old channel's backoff
    # The socket of a starting kubelet exists shortly before it listens.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Registrar:
    """Registers sockets with the kubelet at `path`: each once, with at most one call in progress. Not thread-safe.

    `on_answer` is called in a thread of gRPC, even after `close`, when `update` has an answer to process.
    """

    def __init__(self, path: Path, on_answer: Callable[[object], None]) -> None:
        self._path, self._on_answer = path, on_answer
        self._kubelet: Identity | None = None
        self._is_absence_logged = False  # whether it is logged that the kubelet is missing or does not answer
        self._channel: grpc.Channel | None = None
        self._calls: dict[Socket, Any] = {}
        self._registered: set[Socket] = set()
        self._failed: dict[Socket, float] = {}  # time.monotonic() of the next attempt

    def timeout(self) -> float | None:
        """Return the ms until `update` must retry a registration; None if there is none to retry."""
        wait = min(self._failed.values(), default=None)
        return None if wait is None else max(0.0, wait - time.monotonic()) * 1000

    def update(self, pools: Collection[Socket], served_again: Iterable[Socket]) -> None:
        """Register those of `pools` that this kubelet does not know yet or are in `served_again`; forget others."""
        self._check_kubelet()
        known = self._registered | self._calls.keys() | self._failed.keys()
        for pool in (*served_again, *(pool for pool in known if pool not in pools)):
            self._registered.discard(pool)
            self._failed.pop(pool, None)
            if call := self._calls.pop(pool, None):
                call.cancel()
        self._process_finished_calls()
        known = self._registered | self._calls.keys() | self._failed.keys()
        for pool in pools if self._kubelet else ():
            if pool not in known and pool.is_ours:
                self._register(pool)
        if not self._calls:
            self._close_channel()

    def _check_kubelet(self) -> None:
        """Forget all registrations if the kubelet's socket was replaced or removed."""
        kubelet = sockets.identity(self._path)
        if kubelet != self._kubelet:
            self.close()
            self._kubelet, self._is_absence_logged = kubelet, False
        if kubelet is None and not self._is_absence_logged:
            log.info("waiting for the kubelet's socket %s", self._path)
            self._is_absence_logged = True

    def close(self) -> None:
        """Cancel running calls, forget all registrations and close the channel."""
        for call in self._calls.values():
            call.cancel()
        for known in (self._calls, self._registered, self._failed):
            known.clear()
        self._close_channel()

    def _close_channel(self) -> None:
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
            request, timeout=_ANSWER_TIMEOUT, wait_for_ready=True
        )
        self._calls[pool] = call
        call.add_done_callback(self._on_answer)

    def _process_finished_calls(self) -> None:
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
            if code not in _NO_ANSWER:
                log.error("resource %s: the kubelet refuses: %s", resource, call.details())
            elif not self._is_absence_logged:
                log.warning("the kubelet does not answer on %s: %s; retrying", self._path, call.details())
                self._is_absence_logged = True
