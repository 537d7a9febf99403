"""Takeover from userspace-CNI: reads the files that it keeps of its ports, so that a DEL can remove these ports.

`<dir>/data/local-<container>-<interface>.json` contains the name of the Open vSwitch port (userspace-CNI,
cniovs/localdb.go) or the index of the VPP interface (cnivpp/localdb.go). <container> is only the first 12 digits of
the id, so the full id is known only when the DEL comes; until then the file stays in place for userspace-CNI.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wirespeed import structs
from wirespeed.cni.errors import CniError, Code
from wirespeed.plugins.vhost.conf import OVS, VPP
from wirespeed.plugins.vhost.engine import port_name
from wirespeed.plugins.vhost.sockets import Folder

# userspace-CNI bind-mounts an emptyDir whose path is too long for a socket at <MOUNTS>/<pod UID>
# (cniovs/cniovs.go, getShortSharedDir).
MOUNTS = Path("/var/lib/vhost_sockets")
_LONG = 89  # from this path length on
_DIGITS = 12  # of the container id
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # a port's name, also the name of its socket
_UMOUNT_NOFOLLOW = 8


@structs.prepared
class _File(msgspec.Struct, kw_only=True):
    """The keys of a file."""

    port: str = msgspec.field(name="vhostname", default="")
    index: int | None = msgspec.field(name="swIfIndex", default=None)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """userspace-CNI's file of one attachment: the switch, and the port's name in it.

    The stored VPP interface index is not used: VPP assigns new indexes when it restarts.
    """

    file: Path
    engine: str
    port: str


def kept(base: Path, container: str, ifname: str) -> Kept | None:
    """Read the file of an attachment in the folder `base`; None if there is none.

    Raises CniError: DECODING_FAILURE that names what was expected, IO_FAILURE.
    """
    file = base / "data" / f"local-{container[:_DIGITS]}-{ifname}.json"
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{file}: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CniError(Code.DECODING_FAILURE, f"{file}: expected what userspace-CNI keeps: {error}") from error
    if found.index is not None:
        return Kept(file=file, engine=VPP, port=port_name(container, ifname))
    if not _NAME.fullmatch(found.port):
        raise CniError(
            Code.DECODING_FAILURE, f'{file}: key "vhostname": expected the name of a port, got {found.port!r}'
        )
    return Kept(file=file, engine=OVS, port=found.port)


def as_switch_has_it(folder: Folder) -> str:
    """Return the path of a pod's folder that userspace-CNI passed to the switch."""
    if not folder.kubelets or len(folder.path) < _LONG:
        return folder.path
    uid = folder.path.partition("/pods/")[2].partition("/")[0]
    return str(MOUNTS / uid)


def forget(file: Path, folder: str) -> None:
    """Remove the file of an attachment; with the container's last one, also unmount its pod's `folder`.

    Raises CniError(IO_FAILURE).
    """
    try:
        file.unlink(missing_ok=True)
        if Path(folder).parent == MOUNTS and not _others(file):
            _unmount(folder)
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{error.filename or folder}: {error.strerror}") from error


def _others(file: Path) -> bool:
    """Whether there are other files of the same container."""
    return any(file.parent.glob(f"{file.name[: len('local-') + _DIGITS]}-*.json"))


def _unmount(folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(folder.encode(), _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:  # no longer mounted, or no longer there
            raise OSError(number, os.strerror(number), folder)
    with suppress(OSError):  # no longer there, or not empty
        os.rmdir(folder)
