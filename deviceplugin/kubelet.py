"""Keeps the pools' sockets where the kubelet expects them, across restarts of the kubelet."""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Sequence
from pathlib import Path

from wirespeed.cni.errors import CniError, Code
from wirespeed.deviceplugin.registrar import Registrar
from wirespeed.deviceplugin.service import PoolService
from wirespeed.deviceplugin.sockets import Socket
from wirespeed.system.inotify import GONE, FolderWatch

log = logging.getLogger(__name__)


class Kubelet:
    """Serves the pools to the kubelet whose folder is `folder`.

    If it contains plugins_registry, the sockets are created there; the kubelet discovers them and calls GetInfo.
    Otherwise they are created in device-plugins and registered through the kubelet's socket there. A restarting
    kubelet removes all sockets in device-plugins. inotify reports that, the kubelet's new socket, and any other
    removal; after each event, `_update` compares with what is there. Raises CniError: IO_FAILURE if a folder or
    socket cannot be created, INVALID_CONFIG for a socket path that is too long.
    """

    def __init__(self, services: Sequence[PoolService], folder: Path) -> None:
        registry = folder / "plugins_registry"
        self._finds_us = registry.is_dir()
        self._folder = registry if self._finds_us else folder / "device-plugins"
        self._pools = self.sockets(services)
        self._next: list[Socket] | None = None
        self._asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch = _watch(self._folder)
        self._registrar = None if self._finds_us else Registrar(self._folder / "kubelet.sock")

    def sockets(self, services: Sequence[PoolService]) -> list[Socket]:
        """Return sockets for the services, not served yet. Raises CniError(INVALID_CONFIG) for too long a path."""
        return [Socket(service, self._folder, asked_by_kubelet=self._finds_us) for service in services]

    def change(self, pools: Sequence[Socket]) -> None:
        """Serve these sockets (new ones from `sockets`) instead; the socket of a service that is served stays."""
        self._next = list(pools)
        os.eventfd_write(self._asked, 1)

    def serve(self) -> None:
        """Serve all pools, and register them if the kubelet runs."""
        self._update()
        fields = {"pools": len(self._pools), "folder": self._folder}
        log.info("the kubelet is served", extra={"fields": fields})

    def follow(self, ended: int) -> None:
        """Keep the pools served and registered until the descriptor `ended` is readable."""
        while ended not in self._wait(ended):
            if any(event.mask & GONE for event in self._watch.events()):
                log.warning("folder %s has gone: it is made anew", self._folder)
                self._watch.close()
                self._watch = _watch(self._folder)
            self._update()

    def close(self) -> None:
        """Remove the sockets, give running calls half a second to finish, and end the threads."""
        if self._registrar:
            self._registrar.close()
        self._watch.close()
        _end(self._pools)
        os.close(self._asked)

    def _wait(self, ended: int) -> list[int]:
        """Wait until there may be something to do; return the readable descriptors."""
        poller = select.poll()
        for file in (ended, self._asked, self._watch.fileno()):
            poller.register(file, select.POLLIN)
        if self._registrar:
            poller.register(self._registrar, select.POLLIN)
        return [file for file, _ in poller.poll(self._registrar.timeout() if self._registrar else None)]

    def _take_change(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._asked)
        new, self._next = self._next, None
        if new is None:
            return
        served = {pool.service: pool for pool in self._pools}
        pools = [served.get(pool.service, pool) for pool in new]
        _end([pool for pool in self._pools if pool not in pools])  # before a new socket uses the same path
        self._pools = pools

    def _update(self) -> None:
        self._take_change()
        anew = [pool for pool in self._pools if pool.keep()]
        if self._registrar:
            self._registrar.update(self._pools, anew)


def _end(pools: Sequence[Socket]) -> None:
    """Remove the sockets, give running calls half a second to finish, and end the threads."""
    for pool in pools:
        pool.service.end()
    for ended in [pool.close() for pool in pools]:
        if ended:
            ended.wait()
    for pool in pools:
        pool.release()


def _watch(folder: Path) -> FolderWatch:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        return FolderWatch(folder)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"folder {folder}: {error.strerror}") from error
