"""Keeps the pools' sockets where the kubelet expects them, across restarts of the kubelet."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections.abc import Sequence
from pathlib import Path

from wirespeed import errors
from wirespeed.deviceplugin.registrar import Registrar
from wirespeed.deviceplugin.service import PoolService
from wirespeed.deviceplugin.sockets import Socket
from wirespeed.system.inotify import WATCH_ENDED, FolderWatch

log = logging.getLogger(__name__)


class Kubelet:
    """Serves the pools to the kubelet whose folder is `folder`.

    If it contains plugins_registry, the sockets are created there; the kubelet discovers them and calls GetInfo.
    Otherwise they are created in device-plugins and registered through the kubelet's socket there. A restarting
    kubelet removes all sockets in device-plugins. inotify reports that, the kubelet's new socket, and any other
    removal; after each event, `_update` restores and registers the sockets as needed. Raises Error: IO if a folder
    or socket cannot be created, INVALID_CONFIG for a socket path that is too long.
    """

    def __init__(self, services: Sequence[PoolService], folder: Path) -> None:
        registry = folder / "plugins_registry"
        self._kubelet_discovers = registry.is_dir()
        self._folder = registry if self._kubelet_discovers else folder / "device-plugins"
        self._pools = self.sockets(services)
        self._next: list[Socket] | None = None
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._watch = _watch(self._folder)
        self._registrar = None if self._kubelet_discovers else Registrar(self._folder / "kubelet.sock", self._wake)

    def sockets(self, services: Sequence[PoolService]) -> list[Socket]:
        """Return sockets for the services, not served yet. Raises Error(INVALID_CONFIG) for too long a path."""
        return [Socket(service, self._folder, asked_by_kubelet=self._kubelet_discovers) for service in services]

    def change(self, pools: Sequence[Socket]) -> None:
        """Serve these sockets (new ones from `sockets`) instead; the socket of a service that is served stays."""
        self._next = list(pools)
        self._wake()

    def _wake(self, _: object = None) -> None:
        """Make `follow` update the sockets. Works in any thread, and does nothing after `close`."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def serve(self) -> None:
        """Serve all pools, and register them if the kubelet runs."""
        self._update()
        fields = {"pools": len(self._pools), "folder": self._folder}
        log.info("the kubelet is served", extra={"fields": fields})

    def follow(self, ended: int) -> None:
        """Keep the pools served and registered until the descriptor `ended` is readable."""
        while ended not in self._wait(ended):
            self._create_removed_folder()
            try:
                self._update()
            except errors.Error:
                if not self._create_removed_folder():  # it may have been removed since
                    raise
                self._update()

    def _create_removed_folder(self) -> bool:
        """Create the folder again if the watch says that it was removed; return whether it was."""
        removed = any(event.mask & WATCH_ENDED for event in self._watch.events())
        if removed:
            log.warning("folder %s was removed; creating it again", self._folder)
            self._watch.close()
            self._watch = _watch(self._folder)
        return removed

    def close(self) -> None:
        if self._registrar:
            self._registrar.close()
        self._watch.close()
        _stop(self._pools)
        self._waker.close()
        self._woken.close()

    def _wait(self, ended: int) -> list[int]:
        """Wait until there may be something to do; return the readable descriptors."""
        poller = select.poll()
        for file in (ended, self._woken, self._watch):
            poller.register(file, select.POLLIN)
        return [file for file, _ in poller.poll(self._registrar.timeout() if self._registrar else None)]

    def _apply_change(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(1 << 16)
        new, self._next = self._next, None
        if new is None:
            return
        served = {pool.service: pool for pool in self._pools}
        pools = [served.get(pool.service, pool) for pool in new]
        _stop([pool for pool in self._pools if pool not in pools])  # before a new socket uses the same path
        self._pools = pools

    def _update(self) -> None:
        self._apply_change()
        served_again = [pool for pool in self._pools if pool.ensure_served()]
        if self._registrar:
            self._registrar.update(self._pools, served_again)


def _stop(pools: Sequence[Socket]) -> None:
    """Remove the sockets, give running calls half a second to finish, and end the threads."""
    for pool in pools:
        pool.service.end()
    for ended in [pool.close() for pool in pools]:
        if ended:
            ended.wait()
    for pool in pools:
        pool.release()


def _watch(folder: Path) -> FolderWatch:
    with errors.os_errors(f"folder {folder}"):
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        return FolderWatch(folder)
