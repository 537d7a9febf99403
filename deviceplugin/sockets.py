"""The pools' sockets and the gRPC servers behind them."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.service import STREAMS, PoolService
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration

log = logging.getLogger(__name__)

_LONGEST = 107  # bytes of a unix socket's path (sun_path of unix(7), and a zero byte)
_WORKERS = 2  # threads for the calls of one pool that are answered at once, beside its ListAndWatch
_GRACE = 0.5  # seconds for calls to finish when the plugin ends

Identity = tuple[int, int, int]


def identity(path: Path) -> Identity | None:
    """What tells the socket at the path from those that were there before it; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns) if stat.S_ISSOCK(status.st_mode) else None


class Socket:
    """A pool's socket: served, served anew after somebody removed it, and removed.

    `asked_by_kubelet` is whether the kubelet finds it by itself and asks who it is. One thread at a time.

    Each pool has a gRPC server of its own, with one thread that takes its calls: a call over a unix socket tells
    neither the path that it came by nor a host (the peer is "unix:", the authority "localhost"), so a server of
    several sockets could not tell the pools apart. ListAndWatch holds a thread for as long as the kubelet is there.
    Threads are made as calls need them.
    """

    def __init__(self, service: PoolService, folder: Path, *, asked_by_kubelet: bool) -> None:
        self.service = service
        self.path = folder / f"{service.pool.resource.replace('/', '_')}.sock"
        self._asked_by_kubelet = asked_by_kubelet
        self._calls = ThreadPoolExecutor(STREAMS + _WORKERS, thread_name_prefix="deviceplugin call")
        self._server: Any = None
        self._identity: Identity | None = None
        self._taken_by: Identity | None = None
        if len(bytes(self.path)) > _LONGEST:
            raise CniError(
                Code.INVALID_CONFIG,
                f"resource {service.pool.resource}: its socket {self.path} has {len(bytes(self.path))} bytes: "
                f"expected at most {_LONGEST}, the most that a unix socket's path may have",
            )

    @property
    def is_ours(self) -> bool:
        """Whether it is served, and no other process has put its own socket there."""
        return self._identity is not None and identity(self.path) == self._identity

    def keep(self) -> bool:
        """Serve it unless it is served; whether it is served anew.

        Where another process has taken the path, that one is left alone: two that take it from each other would
        do so for ever. Raises CniError(IO_FAILURE).
        """
        there = identity(self.path)
        if self._server and there is not None:
            if there not in {self._identity, self._taken_by}:
                log.error("resource %s: another process serves it now on %s", self.service.pool.resource, self.path)
                self._taken_by = there
            return False
        self.close(None)
        self._serve()
        return True

    def close(self, grace: float | None = _GRACE) -> Any:
        """Remove the socket; after `grace` seconds end the calls that run. The event that is set when they have."""
        server, self._server, self._identity = self._server, None, None
        return server.stop(grace) if server else None

    def release(self) -> None:
        """End its threads, after all calls have ended. It serves no more."""
        self._calls.shutdown()

    def _serve(self) -> None:
        handlers = [rpc.handler(dp.DESCRIPTOR.services_by_name["DevicePlugin"], self.service)]
        if self._asked_by_kubelet:
            service = registration.DESCRIPTOR.services_by_name["Registration"]
            handlers.append(rpc.handler(service, self.service))
        self.service.endpoint = str(self.path)
        server = grpc.server(self._calls, handlers=handlers)
        try:
            server.add_insecure_port(f"unix:{self.path}")  # in the place of a socket that a dead process left
        except RuntimeError as error:
            raise CniError(Code.IO_FAILURE, f"socket {self.path}: it cannot be made") from error
        server.start()
        self._server, self._identity, self._taken_by = server, identity(self.path), None
