"""Keeps the pools' sockets where the kubelet looks for them, over its restarts."""

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
from wirespeed.host.inotify import GONE, FolderWatch

log = logging.getLogger(__name__)


class Kubelet:
    """Serves the pools to the kubelet whose folder is `folder`.

    With a plugins_registry in it, the sockets lie there, and the kubelet finds them itself and asks who they are.
    Without, they lie in device-plugins and are registered on the kubelet's own socket there.
    A restarting kubelet removes all sockets of device-plugins; that, its new socket, and a socket that went in any
    other way are seen by inotify. What happened in between does not count: `_update` looks at what is there.
    Raises CniError(IO_FAILURE) for a folder or socket that cannot be made, INVALID_CONFIG for too long a name.
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
        """Sockets for the services, not served yet. Raises CniError(INVALID_CONFIG) for too long a name."""
        return [Socket(service, self._folder, asked_by_kubelet=self._finds_us) for service in services]

    def change(self, pools: Sequence[Socket]) -> None:
        """Serve these instead, made by `sockets` just now; those of a service that is served already go on."""
        self._next = list(pools)
        os.eventfd_write(self._asked, 1)

    def serve(self) -> None:
        """Serve all pools, and have them registered if the kubelet is there."""
        self._update()
        fields = {"pools": len(self._pools), "folder": self._folder}
        log.info("the kubelet is served", extra={"fields": fields})

    def follow(self, ended: int) -> None:
        """Keep it so until the descriptor `ended` is readable."""
        while ended not in self._wait(ended):
            if any(event.mask & GONE for event in self._watch.events()):
                log.warning("folder %s has gone: it is made anew", self._folder)
                self._watch.close()
                self._watch = _watch(self._folder)
            self._update()

    def close(self) -> None:
        """Remove the sockets, let the calls that run finish for half a second, end the threads."""
        if self._registrar:
            self._registrar.close()
        self._watch.close()
        _end(self._pools)
        os.close(self._asked)

    def _wait(self, ended: int) -> list[int]:
        """Until something may have to be done; which files are readable."""
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
        _end([pool for pool in self._pools if pool not in pools])  # before another one takes its path
        self._pools = pools

    def _update(self) -> None:
        self._take_change()
        anew = [pool for pool in self._pools if pool.keep()]
        if self._registrar:
            self._registrar.update(self._pools, anew)


def _end(pools: Sequence[Socket]) -> None:
    """Remove the sockets; let the calls that run finish for half a second, and end their threads."""
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
