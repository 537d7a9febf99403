"""The pools' sockets and their gRPC servers."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from wirespeed.deviceplugin.service import STREAMS, PoolService
from wirespeed.errors import Error, Kind, Thing
from wirespeed.kube import rpc
from wirespeed.kube.proto import deviceplugin_pb2 as dp
from wirespeed.kube.proto import pluginregistration_pb2 as registration

log = logging.getLogger(__name__)

_LONGEST = 107  # bytes of a Unix socket's path: sun_path has 108 with the terminating 0 (unix(7))
_WORKERS = 2  # threads per pool for short calls, in addition to those for ListAndWatch
_GRACE = 0.5  # seconds for calls to finish when the plugin stops

Identity = tuple[int, int, int]


def identity(path: Path) -> Identity | None:
    """Return what distinguishes this socket from earlier ones at the path; None if there is no socket."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns) if stat.S_ISSOCK(status.st_mode) else None


class Socket:
    """The socket of a pool with its gRPC server; it is served again if somebody removed it. Not thread-safe.

    `asked_by_kubelet` is whether the kubelet discovers the socket itself and calls GetInfo.

    Each pool needs its own gRPC server: a call over a Unix socket contains neither the socket's path nor a host
    name (the peer is "unix:", the authority "localhost"), so a server with several sockets could not tell the
    pools apart. A ListAndWatch call blocks a thread as long as the kubelet is connected; threads start on demand.
    """

    def __init__(self, service: PoolService, folder: Path, *, asked_by_kubelet: bool) -> None:
        self.service = service
        self.path = folder / f"{service.pool.resource.replace('/', '_')}.sock"
        self._asked_by_kubelet = asked_by_kubelet
        self._calls = ThreadPoolExecutor(STREAMS + _WORKERS, thread_name_prefix="deviceplugin call")
        self._server: Any = None
        self._identity: Identity | None = None
        self._taken_by: Identity | None = None
        if (length := len(bytes(self.path))) > _LONGEST:
            where = Thing("resource", service.pool.resource)
            what = f"its socket {self.path} has a path of {length} bytes"
            expected = f"at most {_LONGEST}, the limit for a unix socket"
            raise Error(Kind.INVALID_CONFIG, what, where=where, expected=expected)

    @property
    def is_ours(self) -> bool:
        """Whether the socket is served and no other process has replaced it."""
        return self._identity is not None and identity(self.path) == self._identity

    def ensure_served(self) -> bool:
        """Serve the socket if it is not served; return whether that was necessary.

        If another process has replaced the socket, leave it alone: two processes would otherwise replace each
        other's socket forever. Raises Error(IO).
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
        """Remove the socket, and end running calls after `grace` seconds; return the event that is set then."""
        server, self._server, self._identity = self._server, None, None
        return server.stop(grace) if server else None

    def release(self) -> None:
        """End its threads after all calls have ended. It cannot be served again."""
        self._calls.shutdown()

    def _serve(self) -> None:
        handlers = [rpc.handler(dp.DESCRIPTOR.services_by_name["DevicePlugin"], self.service)]
        if self._asked_by_kubelet:
            service = registration.DESCRIPTOR.services_by_name["Registration"]
            handlers.append(rpc.handler(service, self.service))
        self.service.endpoint = str(self.path)
        server = grpc.server(self._calls, handlers=handlers)
        try:
            server.add_insecure_port(f"unix:{self.path}")  # replaces a socket that a dead process has left
        except RuntimeError as error:
            raise Error(Kind.IO, "it cannot be created", where=f"socket {self.path}") from error
        server.start()
        self._server, self._identity, self._taken_by = server, identity(self.path), None
