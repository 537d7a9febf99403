"""IPAM for plugins: does what the `ipam` part of their network configuration specifies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wirespeed import structs
from wirespeed.cni.chain import read_output
from wirespeed.cni.errors import CniError, Code
from wirespeed.cni.execute import check_kind, find_plugin, run_plugin
from wirespeed.cni.plugin import Result
from wirespeed.cni.request import Request
from wirespeed.ipam import hostlocal, static
from wirespeed.ipam.leases import Leases

log = logging.getLogger(__name__)

HOST_LOCAL = "host-local"
STATIC = "static"

# The codes by which CNI's Go library (pkg/skel) refuses a version without CHECK, and an unknown command.
_WITHOUT_CHECK = frozenset({Code.INCOMPATIBLE_VERSION, Code.INVALID_ENVIRONMENT})
# The codes of that library for any error without a code (999, in early versions 100), and ours for a failure
# without a CNI error. whereabouts and others return these because they have no CHECK; _HAVE_CHECK have one.
_SAYS_NOTHING = frozenset({999, 100, Code.PLUGIN})
_HAVE_CHECK = frozenset({"dhcp"})


class Ipam:
    """Runs the IPAM plugin of a request: host-local and static in this process, any other type from CNI_PATH.

    `leases` is host-local's default data folder. The requests are those of the calling plugin; if they have no
    `ipam`, or one without `type`, nothing is done. Safe from any thread. Errors keep their code and begin with
    "ipam <type>".
    """

    def __init__(self, leases: Path) -> None:
        self._default = leases
        self._lock = threading.Lock()
        self._leases: dict[Path, Leases] = {}

    def add(self, request: Request) -> Result:
        """Allocate addresses; return {"ips": [...], "routes": [...], "dns": {...}}, in the format of a result."""
        with _type_in_errors(request) as kind:
            match kind:
                case "":
                    return {"ips": [], "routes": [], "dns": {}}
                case "host-local":
                    return hostlocal.add(request, self._of(request))
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
            leases = self._of(request) if kind == HOST_LOCAL else None
            if not attached:
                check_usable(request.config, request.path)
        except CniError as error:
            log.info("network %s: no addresses were given: %s", request.name, error.msg)
            return
        with _led_by(kind):
            if leases is not None:
                hostlocal.delete(request, leases)
            elif kind not in {"", STATIC}:
                _execute(kind, request.derive(command="DEL"))

    def check(self, request: Request) -> None:
        """Check that the addresses still belong to the attachment.

        Many IPAM plugins have no CHECK, and answer with the same error code as for any failure: that is only
        logged.
        """
        with _type_in_errors(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.check(request, self._of(request))
            elif kind == STATIC:
                static.add(request)
            elif kind:
                _check_executed(kind, request.derive(command="CHECK"))

    def gc(self, request: Request) -> None:
        """Release the addresses that belong to none of the request's valid attachments."""
        with _type_in_errors(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.gc(request, self._of(request))
            elif kind not in {"", STATIC}:
                _execute(kind, request.derive(command="GC"))

    def status(self, request: Request) -> None:
        """Check that addresses can be allocated."""
        with _type_in_errors(request) as kind:
            if kind == HOST_LOCAL:
                hostlocal.status(request, self._of(request))
            elif kind == STATIC:
                static.add(request)
            elif kind:
                _execute(kind, request.derive(command="STATUS"))

    def _of(self, request: Request) -> Leases:
        folder = hostlocal.folder(request, self._default)
        with self._lock:
            return self._leases.setdefault(folder, Leases(folder))


def check_usable(config: Mapping[str, Any], path: Sequence[str], *, executed: bool = False) -> None:
    """Check that the plugin of an `ipam` is in the folders of `path`. Raises CniError(INVALID_CONFIG).

    host-local and static need not be there, unless the plugin that uses the `ipam` is `executed`.
    """
    kind = _kind(config)
    if kind and (executed or kind not in {HOST_LOCAL, STATIC}):
        with _led_by(kind):
            find_plugin(kind, path)


def _kind(config: Mapping[str, Any]) -> str:
    """Return the IPAM type of a plugin's configuration, "" if it has none. Raises CniError(INVALID_CONFIG)."""
    ipam = config.get("ipam")
    if ipam is not None and not isinstance(ipam, dict):
        raise structs.wrong("ipam", "an object", ipam)
    kind = (ipam or {}).get("type") or ""
    if not isinstance(kind, str):
        raise structs.wrong("ipam.type", "the name of a plugin", kind)
    if kind:
        with _led_by(kind):
            check_kind(kind)
    return kind


@contextmanager
def _type_in_errors(request: Request) -> Iterator[str]:
    """Yield the IPAM type of the request; errors raised inside begin with it."""
    kind = _kind(request.config)
    with _led_by(kind):
        yield kind


@contextmanager
def _led_by(kind: str) -> Iterator[None]:
    try:
        yield
    except CniError as error:
        raise error.prefixed(f"ipam {kind}") from error


def _check_executed(kind: str, request: Request) -> None:
    try:
        _execute(kind, request)
    except CniError as error:
        says_nothing = error.code in _SAYS_NOTHING and kind not in _HAVE_CHECK
        if not says_nothing and error.code not in _WITHOUT_CHECK:
            raise
        log.warning("network %s: ipam %s has not checked its addresses: %s", request.name, kind, error.msg)


def _execute(kind: str, request: Request) -> bytes:
    try:
        binary = find_plugin(kind, request.path)
    except CniError as error:
        if request.command == "STATUS":
            raise CniError(Code.UNAVAILABLE, error.msg) from error
        raise
    return run_plugin(binary, request)
