"""IPAM for plugins, as the key `ipam` of their network configuration specifies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wirespeed import structs
from wirespeed.cni.chain import read_output
from wirespeed.cni.errors import Code, code_of
from wirespeed.cni.execute import check_kind, find_plugin, run_plugin
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.errors import Error, Kind, within
from wirespeed.ipam import hostlocal, static
from wirespeed.ipam.leases import Leases
from wirespeed.trace import step

log = logging.getLogger(__name__)

HOST_LOCAL, STATIC = "host-local", "static"

# How CNI's Go library (pkg/skel) refuses CHECK for a version without it, and an unknown command.
_WITHOUT_CHECK = frozenset({Kind.INCOMPATIBLE_VERSION, Kind.INVALID_REQUEST})
# That library's codes for errors without a code (999, in early versions 100), and ours for a failure without a CNI
# error. whereabouts and other plugins without CHECK return these; the plugins of _WITH_CHECK implement it.
_UNSPECIFIC_CODES = frozenset({999, 100, Code.PLUGIN})
_WITH_CHECK = frozenset({"dhcp"})


class Ipam:
    """Runs the IPAM plugin of a request: host-local and static in this process, any other type from CNI_PATH.

    `leases` is host-local's default data folder. The requests are those of the calling plugin; if they have no
    `ipam`, or one without `type`, nothing is done. Safe from any thread. Errors keep their kind and begin with
    "ipam <type>".
    """

    def __init__(self, leases: Path) -> None:
        self._default = leases
        self._lock = threading.Lock()
        self._leases: dict[Path, Leases] = {}

    def add(self, request: Request) -> Result:
        """Allocate addresses; return {"ips": [...], "routes": [...], "dns": {...}}, in the format of a result."""
        with _ipam_kind(request) as kind:
            if not kind:
                return {"ips": [], "routes": [], "dns": {}}
            with step("allocate addresses", ipam=kind):
                return self._add(kind, request)

    def _add(self, kind: str, request: Request) -> Result:
        match kind:
            case "host-local":
                return hostlocal.add(request, self._leases_of(request))
            case "static":
                return static.add(request)
        result = read_output(_execute(kind, request.derive(command="ADD")), request.version)
        return {key: result[key] for key in ("ips", "routes", "dns")}

    def delete(self, request: Request, *, attached: bool = True) -> None:
        """Release the addresses. Idempotent.

        An invalid configuration is only logged: `add` refuses it, so no address was leased. The same goes for a
        missing plugin, unless the interface was `attached`.
        """
        try:
            kind = _kind(request.config)
            leases = self._leases_of(request) if kind == HOST_LOCAL else None
            if not attached:
                check_usable(request.config, request.path)
        except Error as error:
            log.info("network %s: no addresses were given: %s", request.name, error.msg)
            return
        with within(f"ipam {kind}"), step("release addresses", ipam=kind):
            if leases is not None:
                hostlocal.delete(request, leases)
            elif kind not in {"", STATIC}:
                _execute(kind, request.derive(command="DEL"))

    def check(self, request: Request) -> None:
        """Check that the addresses still belong to the attachment.

        Many IPAM plugins have no CHECK, and answer with the same error code as for any failure: that is only
        logged.
        """
        with _ipam_kind(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.check(request, self._leases_of(request))
            elif kind == STATIC:
                static.add(request)
            elif kind:
                _check_executed(kind, request.derive(command="CHECK"))

    def gc(self, request: Request) -> None:
        """Release the addresses that belong to none of the request's valid attachments."""
        with _ipam_kind(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.gc(request, self._leases_of(request))
            elif kind not in {"", STATIC}:
                _execute(kind, request.derive(command="GC"))

    def status(self, request: Request) -> None:
        """Check that addresses can be allocated."""
        with _ipam_kind(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.status(request, self._leases_of(request))
            elif kind == STATIC:
                static.add(request)
            elif kind:
                _execute(kind, request.derive(command="STATUS"))

    def _leases_of(self, request: Request) -> Leases:
        folder = hostlocal.folder(request, self._default)
        with self._lock:
            return self._leases.setdefault(folder, Leases(folder))


def check_usable(config: Mapping[str, Any], path: Sequence[str], *, executed: bool = False) -> None:
    """Check that the binary of the IPAM plugin is in the folders of `path`. Raises Error(INVALID_CONFIG).

    host-local and static need no binary, unless the plugin that uses the `ipam` is `executed`.
    """
    kind = _kind(config)
    if kind and (executed or kind not in {HOST_LOCAL, STATIC}):
        with within(f"ipam {kind}"):
            find_plugin(kind, path)


def _kind(config: Mapping[str, Any]) -> str:
    """Return the IPAM type of a plugin's configuration, "" if it has none. Raises Error(INVALID_CONFIG)."""
    ipam = config.get("ipam")
    if ipam is not None and not isinstance(ipam, dict):
        raise structs.wrong("ipam", "an object", ipam)
    kind = (ipam or {}).get("type") or ""
    if not isinstance(kind, str):
        raise structs.wrong("ipam.type", "the name of a plugin", kind)
    if kind:
        with within(f"ipam {kind}"):
            check_kind(kind)
    return kind


@contextmanager
def _ipam_kind(request: Request) -> Iterator[str]:
    """Yield the IPAM type of the request; errors raised in the block begin with it."""
    kind = _kind(request.config)
    with within(f"ipam {kind}"):
        yield kind


def _check_executed(kind: str, request: Request) -> None:
    try:
        _execute(kind, request)
    except Error as error:
        says_nothing = code_of(error) in _UNSPECIFIC_CODES and kind not in _WITH_CHECK
        if not says_nothing and error.kind not in _WITHOUT_CHECK:
            raise
        log.warning("network %s: ipam %s has not checked its addresses: %s", request.name, kind, error.msg)


def _execute(kind: str, request: Request) -> bytes:
    try:
        binary = find_plugin(kind, request.path)
    except Error as error:
        if request.command == "STATUS":
            raise error.of_kind(Kind.UNAVAILABLE) from error
        raise
    return run_plugin(binary, request)
