"""Decides which plugins run in this process: those that do the same as the executable that is installed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wirespeed.cni.execute import find_plugin
from wirespeed.cni.plugin import Plugin
from wirespeed.errors import Error
from wirespeed.ipam import Ipam
from wirespeed.plugins.reference import bridge, ptp, tuning
from wirespeed.plugins.reference.host_device import HostDevice
from wirespeed.plugins.reference.ipvlan import Ipvlan
from wirespeed.plugins.reference.loopback import Loopback
from wirespeed.plugins.reference.macvlan import Macvlan
from wirespeed.plugins.reference.sbr import Sbr
from wirespeed.plugins.reference.vlan import Vlan
from wirespeed.plugins.reference.vrf import Vrf

log = logging.getLogger(__name__)

COMPARED = (1, 9, 1)  # the version of containernetworking/plugins that the tests compare with
_TIMEOUT = 5.0  # seconds for an executable to print its version

# Without CNI_COMMAND, an executable of the reference set prints "CNI bridge plugin v1.9.1" and the versions of the
# specification that it supports. Builds of distributions may print "version unknown" instead of a number.
_VERSION = re.compile(r"^CNI (?P<name>\S+) plugin (?:version unknown|v?(?P<number>\d+\.\d+\.\d+))", re.MULTILINE)
_NEWER_SPECIFICATION = "1.1.0"  # supported since version 1.6.0: an unknown version without it is older


class _Entry(NamedTuple):
    """A plugin: how it is created, and whether a configuration is left to the executable."""

    create: Callable[[Ipam], Plugin]
    executed: Callable[[Mapping[str, Any]], bool] = lambda _: False


_ENTRIES = {
    "bridge": _Entry(bridge.Bridge, bridge.executed),
    "host-device": _Entry(HostDevice),
    "ipvlan": _Entry(Ipvlan),
    "loopback": _Entry(lambda _: Loopback()),
    "macvlan": _Entry(Macvlan),
    "ptp": _Entry(ptp.Ptp, ptp.executed),
    "sbr": _Entry(lambda _: Sbr()),
    "tuning": _Entry(lambda _: tuning.Tuning(), tuning.executed),
    "vlan": _Entry(Vlan),
    "vrf": _Entry(lambda _: Vrf()),
}


class Reference:
    """The plugins of the reference set in this process. Safe from any thread."""

    def __init__(self, leases: Path) -> None:
        ipam = Ipam(leases)
        self._plugins = {kind: entry.create(ipam) for kind, entry in _ENTRIES.items()}
        self._lock = threading.Lock()
        self._compared: dict[tuple[str, int, int, int, int], bool] = {}  # by executable and its state on disk

    def plugin(self, config: Mapping[str, Any], path: Sequence[str]) -> Plugin | None:
        """Return the plugin for a configuration; None if the executable in the folders of `path` must run.

        That is the case if the executable is newer than what was compared, or another program with the same name,
        or if the configuration needs more than netlink and sysctls. Without an executable, this process does it.
        """
        kind = config["type"]
        if kind not in _ENTRIES or _ENTRIES[kind].executed(config) or not self._is_compared(kind, path):
            return None
        return self._plugins[kind]

    def _is_compared(self, kind: str, path: Sequence[str]) -> bool:
        try:
            binary = find_plugin(kind, path)
            state = os.stat(binary)
        except (Error, OSError):
            return True
        key = (binary, state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size)
        with self._lock:
            if key not in self._compared:
                self._compared[key] = _does_the_same(kind, binary)
            return self._compared[key]


def _does_the_same(kind: str, binary: str) -> bool:
    printed = _printed_version(binary)
    found = _VERSION.search(printed)
    if found is None or found["name"] != kind:
        log.info("%s is executed: it is not of the reference set", binary)
        return False
    if found["number"] is None:
        same = _NEWER_SPECIFICATION not in printed
    else:
        same = tuple(map(int, found["number"].split("."))) <= COMPARED
    if not same:
        newest = ".".join(map(str, COMPARED))
        log.info("%s is executed: it is newer than %s, which this version knows", binary, newest)
    return same


def _printed_version(binary: str) -> str:
    try:
        done = subprocess.run(
            [binary],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            timeout=_TIMEOUT,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("%s does not print its version: %s", binary, error)
        return ""
    return done.stdout[:4096].decode(errors="replace")
